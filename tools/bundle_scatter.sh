#!/bin/sh
# Make dashboard/static/vendor/regl-scatterplot.js: regl-scatterplot (MIT) with what it needs, as
# one script that defines ReglScatterplot. Needs node and npm; run from the repository's root.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts \
    regl-scatterplot@1.16.0 regl@2.1.1 pub-sub-es@3.0.0 esbuild@0.28.2
node "$folder/node_modules/esbuild/install.js"
echo "export { createRenderer, default } from 'regl-scatterplot';" > "$folder/entry.js"
"$folder/node_modules/.bin/esbuild" "$folder/entry.js" --bundle --minify --charset=ascii \
    --legal-comments=inline --format=iife --global-name=ReglScatterplot \
    --outfile=dashboard/static/vendor/regl-scatterplot.js
for name in regl-scatterplot regl pub-sub-es dom-2d-camera camera-2d-simple earcut gl-matrix \
    regl-line @flekschas/utils; do
    echo "== $name"
    cat "$folder/node_modules/$name"/LICENSE* 
    echo
done > dashboard/static/vendor/LICENSES.txt
