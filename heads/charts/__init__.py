"""Charts as values, drawn as SVG or by matplotlib."""
