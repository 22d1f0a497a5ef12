// Contrast of texts and marks with what lies behind them, as the browser draws them (WCAG 2.2:
// https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio). Returns what is below the bar.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parsed = new Map();
  function rgba(said) {
    if (!parsed.has(said)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = said;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      parsed.set(said, [r, g, b, a / 255]);
    }
    return parsed.get(said);
  }
  const over = (top, back, opacity) =>
    [0, 1, 2].map((i) => top[i] * top[3] * opacity + back[i] * (1 - top[3] * opacity));
  function parent(node) {
    return node.parentElement ?? node.getRootNode().host ?? null;
  }
  function behind(node) {
    const above = [];
    for (let at = node; at; at = parent(at)) above.unshift(rgba(getComputedStyle(at).backgroundColor));
    return above.reduce((back, top) => over(top, back, 1), [255, 255, 255]);
  }
  function opacity(node) {
    let found = 1;
    for (let at = node; at; at = parent(at)) found *= Number(getComputedStyle(at).opacity);
    return found;
  }
  function luminance(color) {
    const [r, g, b] = color.map((one) => {
      const x = one / 255;
      return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }
  function contrast(color, node, isMark) {
    const back = behind(isMark ? parent(node) : node);
    const [a, b] = [luminance(over(rgba(color), back, opacity(node))), luminance(back)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  const found = [];
  let n = 0;
  function look(root) {
    for (const node of root.querySelectorAll("*")) {
      if (node.shadowRoot) look(node.shadowRoot);
      const box = node.getBoundingClientRect();
      const style = getComputedStyle(node);
      if (!box.width || !box.height || style.visibility === "hidden" || node.closest("script, style"))
        continue;
      if (node.closest("[disabled], [aria-disabled=true]")) continue;
      const texts = [...node.childNodes].filter((one) => one.nodeType === 3 && one.data.trim());
      const isDrawn = node instanceof SVGElement;
      let bar = texts.length ? 4.5 : 0;
      let color = isDrawn ? style.fill : style.color;
      if (node.matches(".dot, .length, .scatterlayer .point")) {
        bar = 3;
        color = isDrawn ? style.fill : style.backgroundColor;
      }
      if (!bar || color === "none") continue;
      n++;
      const value = contrast(color, node, bar === 3);
      if (value < bar)
        found.push(`${value.toFixed(2)} < ${bar}: ${node.dataset?.testid ?? node.className?.baseVal ?? node.className ?? node.tagName} "${(texts[0]?.data ?? "").slice(0, 40)}" ${color}`);
    }
  }
  look(document.querySelector("[data-testid=stApp]"));
  return { n, found };
}
