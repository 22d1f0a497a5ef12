// A map of points in WebGL, by regl-scatterplot (vendor/, put before this file).
// Values reach the page as text and numbers, never parsed as HTML.
const mounted = new WeakMap(); // what is drawn in a place, between runs of the page

export default function ({ data, parentElement, setTriggerValue }) {
  let map = mounted.get(parentElement);
  if (!map) {
    map = new PointMap(parentElement);
    mounted.set(parentElement, map);
  }
  map.tell = (name, value) => setTriggerValue(name, value);
  map.show(data);
  return () => {
    map.close();
    mounted.delete(parentElement);
  };
}

class PointMap {
  constructor(parent) {
    this.root = element("div", "map");
    parent.querySelector(".map")?.remove();
    this.bar = element("div", "bar");
    this.bar.setAttribute("role", "toolbar");
    this.frame = element("div", "frame");
    this.canvas = element("canvas");
    this.tip = element("div", "tip");
    this.tip.hidden = true;
    this.legend = element("ul", "legend");
    this.frame.append(this.canvas, this.tip);
    this.root.append(this.bar, this.frame, this.legend);
    parent.append(this.root);
    this.tools = new Map();
    for (const [name, title] of TOOLS) {
      const button = element("button", "tool", title);
      button.type = "button";
      button.onclick = () => this.use(name);
      this.tools.set(name, button);
      this.bar.append(button);
    }
    const view = element("button", "tool", "Whole map");
    view.type = "button";
    view.onclick = () => this.plot?.reset();
    this.clearer = element("button", "tool", "Clear selection");
    this.clearer.type = "button";
    this.clearer.onclick = () => this.clear();
    this.bar.append(view, this.clearer);
    this.watch = new ResizeObserver(() => this.resize());
  }

  start() {
    const { width, height } = this.frame.getBoundingClientRect();
    this.plot = ReglScatterplot.default({
      canvas: this.canvas,
      width,
      height,
      aspectRatio: width / height,
      lassoMinDist: 3,
      lassoMinDelay: 5,
      lassoInitiator: false,
      deselectOnDblClick: true,
      performanceMode: false,
    });
    if (!this.plot) return;
    let isLasso = false;
    this.plot.subscribe("lassoStart", () => (isLasso = true));
    this.plot.subscribe("lassoEnd", ({ coordinates }) => {
      isLasso = false;
      if (this.isQuiet) return;
      const corners = thinned(coordinates.map((at) => [at[0] * this.scale, at[1]]));
      this.outline = JSON.stringify(corners);
      this.tell("lasso", corners);
    });
    this.plot.subscribe("select", ({ points }) => {
      if (this.isQuiet || isLasso || points.length !== 1) return;
      this.tell("clicked", points[0]);
    });
    this.plot.subscribe("deselect", () => {
      if (!this.isQuiet && !isLasso) this.tell("cleared", Date.now());
    });
    this.plot.subscribe("pointOver", (i) => this.point(i));
    this.plot.subscribe("pointOut", () => (this.tip.hidden = true));
    this.watch.observe(this.frame);
    this.use("pan");
  }

  async show(data) {
    this.data = data;
    this.bar.setAttribute("aria-label", data.name);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", data.name);
    if (!this.plot) this.start();
    if (!this.plot) return;
    if (data.key !== this.key) {
      this.key = data.key;
      this.outline = undefined;
      const xy = floats(data.points);
      this.x = xy.filter((_, i) => i % 2 === 0);
      this.y = xy.filter((_, i) => i % 2 === 1);
    }
    const colour = JSON.stringify([data.key, data.colour_key]);
    if (colour !== this.colour) {
      this.colour = colour;
      this.values = floats(data.values);
      this.paint();
      this.isQuiet = true;
      await this.plot.draw(
        { x: this.x, y: this.y, z: this.values },
        { zDataType: data.is_number ? "continuous" : "categorical" },
      );
      this.isQuiet = false;
      this.outline = undefined;
      this.root.dataset.points = this.x.length; // what tests wait for
    }
    this.mark();
  }

  paint() {
    const { data } = this;
    const n = this.x.length;
    this.plot.set({
      backgroundColor: colour(this.root, "--st-background-color"),
      colorBy: "valueA",
      pointColor: data.palette,
      pointColorHover: colour(this.root, "--st-text-color"),
      pointColorActive: colour(this.root, "--st-text-color"),
      pointSize: n > 50000 ? 2 : n > 5000 ? 3.5 : 6,
      pointSizeSelected: 1.5,
      opacity: n > 50000 ? 0.5 : 0.8,
      lassoColor: colour(this.root, "--st-primary-color"),
    });
    this.legend.replaceChildren(...data.legend.map(legendLine));
  }

  // Show what the page holds as chosen: an outline, or one point.
  mark() {
    const outline = this.data.lasso ? JSON.stringify(this.data.lasso) : null;
    this.clearer.disabled = outline === null && this.data.item === null;
    if (outline !== null && outline === this.outline && this.data.item === null) return;
    this.outline = outline;
    const chosen = this.data.lasso ? this.inside(this.data.lasso) : [];
    if (this.data.item !== null && !this.data.lasso) chosen.push(this.data.item);
    this.isQuiet = true;
    if (chosen.length) this.plot.select(chosen, { preventEvent: true });
    else this.plot.deselect({ preventEvent: true });
    this.isQuiet = false;
  }

  inside(corners) {
    const found = [];
    for (let i = 0; i < this.x.length; i++) {
      let isIn = false;
      for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
        const [ax, ay] = corners[a];
        const [bx, by] = corners[b];
        const crosses = ay > this.y[i] !== by > this.y[i];
        if (crosses && this.x[i] < ((bx - ax) * (this.y[i] - ay)) / (by - ay) + ax) isIn = !isIn;
      }
      if (isIn) found.push(i);
    }
    return found;
  }

  use(name) {
    for (const [one, button] of this.tools) button.setAttribute("aria-pressed", String(one === name));
    this.plot?.set({
      mouseMode: name === "pan" ? "panZoom" : "lasso",
      lassoType: name === "box" ? "rectangle" : "freeform",
    });
  }

  clear() {
    this.isQuiet = true;
    this.plot?.deselect({ preventEvent: true });
    this.isQuiet = false;
    this.tell("cleared", Date.now());
  }

  point(i) {
    const [x, y] = this.plot.getScreenPosition(i) ?? [0, 0];
    const value = this.values[i];
    const { legend, is_number: isNumber, low, high } = this.data;
    this.tip.textContent = isNumber
      ? (low + value * (high - low)).toPrecision(3)
      : (legend[value]?.name ?? "");
    this.tip.style.left = `${x + 10}px`;
    this.tip.style.top = `${y + 10}px`;
    this.tip.hidden = false;
  }

  get scale() {
    return 1;
  }

  resize() {
    const { width, height } = this.frame.getBoundingClientRect();
    if (width && height) this.plot?.set({ width, height, aspectRatio: width / height });
  }

  close() {
    this.watch.disconnect();
    this.plot?.destroy();
    this.root.remove();
  }
}

const TOOLS = [
  ["pan", "Move"],
  ["lasso", "Lasso"],
  ["box", "Box"],
];

function legendLine(one) {
  const line = element("li");
  const dot = element("span", "dot");
  dot.style.background = one.color;
  line.append(dot, element("span", "", one.name));
  if (one.n !== undefined) line.append(element("span", "n", one.n.toLocaleString("en")));
  return line;
}

// At most 60 corners: they stand in the page's address.
function thinned(corners) {
  const step = Math.ceil(corners.length / 60);
  return corners
    .filter((_, i) => i % step === 0)
    .map((at) => at.map((one) => Math.round(one * 1000) / 1000));
}

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
  return Array.from(new Float32Array(bytes.buffer));
}

function colour(place, name) {
  const probe = element("span");
  probe.style.color = `var(${name})`;
  place.append(probe);
  const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
  probe.remove();
  return [r / 255, g / 255, b / 255, 1];
}

function element(tag, name = "", text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}
