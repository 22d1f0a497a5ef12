// A map of points in WebGL, by regl-scatterplot (vendor/, put before this file).
// Values reach the page as text and numbers, never parsed as HTML.
const mounted = new WeakMap(); // what is drawn in a place, between runs of the page

export default function ({ data, parentElement, setTriggerValue }) {
  let map = mounted.get(parentElement);
  if (!map) {
    map = new PointMap(parentElement);
    mounted.set(parentElement, map);
  }
  const turn = ++map.turn; // a cleanup that comes late must not close what a later run uses
  map.tell = (name, value) => setTriggerValue(name, value);
  map.show(data);
  return () => {
    if (map.turn !== turn) return;
    map.close();
    mounted.delete(parentElement);
  };
}

class PointMap {
  constructor(parent) {
    this.turn = 0;
    this.busy = Promise.resolve(); // draws come one after another: the library refuses a second
    this.root = element("div", "map");
    parent.querySelector(".map")?.remove();
    this.bar = element("div", "bar");
    this.bar.setAttribute("role", "toolbar");
    this.frame = element("div", "frame");
    this.canvas = element("canvas");
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-description", "Arrow keys go from point to point, Enter opens");
    this.canvas.tabIndex = 0;
    this.canvas.onkeydown = (event) => this.walk(event);
    this.canvas.onblur = () => (this.tip.hidden = true);
    this.tip = element("div", "tip");
    this.tip.setAttribute("role", "status");
    this.tip.hidden = true;
    this.legend = element("ul", "legend");
    this.frame.append(this.canvas, this.tip);
    this.root.append(this.bar, this.frame, this.legend);
    parent.append(this.root);
    this.tools = new Map();
    for (const [name, title] of TOOLS) {
      this.tools.set(name, this.button(title, () => this.use(name)));
    }
    this.button("Whole map", () => this.plot?.reset());
    this.clearer = this.button("Clear selection", () => this.tell("cleared", Date.now()));
    this.watch = new ResizeObserver(() => this.resize());
    this.start();
  }

  button(title, act) {
    const made = element("button", "tool", title);
    made.type = "button";
    made.onclick = act;
    this.bar.append(made);
    return made;
  }

  start() {
    // A drawing surface of our own: the library's is as large as the window, and smoothed twice.
    const surface = element("canvas");
    if (!surface.getContext("webgl", { antialias: false, preserveDrawingBuffer: true })) {
      this.frame.replaceChildren(
        element("p", "none", "This browser draws no WebGL, which the map needs: filter instead."),
      );
      return;
    }
    const { width, height } = this.size();
    this.renderer = ReglScatterplot.createRenderer({ canvas: surface });
    this.renderer.resize(width, height);
    this.plot = ReglScatterplot.default({
      renderer: this.renderer,
      canvas: this.canvas,
      width,
      height,
      aspectRatio: width / height,
      lassoMinDist: 3,
      lassoMinDelay: 5,
      syncEvents: true,
      lassoInitiator: false,
      deselectOnDblClick: false, // "Clear selection" does it, of outline and point at once
      deselectOnEscape: false, // it listens on the whole page
    });
    let isLasso = false;
    this.plot.subscribe("lassoStart", () => (isLasso = true));
    this.plot.subscribe("lassoEnd", ({ coordinates }) => {
      isLasso = false;
      this.plot.deselect({ preventEvent: true });
      this.item = undefined; // whatever the library has marked, mark what the page holds
      if (coordinates.length < 3) {
        this.show(this.wanted); // a click whose hand shook
        return;
      }
      const corners = thinned(coordinates);
      this.tell("lasso", [this.wanted.key, corners]);
      this.show({ ...this.wanted, lasso: corners, item: null });
    });
    this.plot.subscribe("select", ({ points }) => {
      if (isLasso) return;
      this.item = undefined;
      if (points.length === 1) this.tell("clicked", [this.key, points[0]]);
      else this.show(this.wanted);
    });
    this.plot.subscribe("deselect", () => {
      if (!isLasso) this.tell("cleared", Date.now());
    });
    this.plot.subscribe("pointOver", (i) => this.point(i));
    this.plot.subscribe("pointOut", () => (this.tip.hidden = true));
    this.plot.subscribe("view", () => (this.tip.hidden = true));
    this.watch.observe(this.frame);
    this.use("pan");
  }

  show(data) {
    this.bar.setAttribute("aria-label", data.name);
    this.canvas.setAttribute("aria-label", data.name);
    this.drawLegend(data);
    this.clearer.disabled = !data.lasso && data.item === null && !data.only.length;
    if (!this.plot) return;
    this.wanted = data;
    this.busy = this.busy.then(() => this.update(data)).catch((error) => {
      if (!this.isClosed) console.error(error); // what comes next is drawn all the same
    });
  }

  async update(data) {
    if (this.wanted !== data || this.isClosed) return; // a later one waits
    const drawn = JSON.stringify([data.key, data.color_key]);
    if (drawn !== this.drawn) {
      if (data.points === null) {
        this.tell("lost", Date.now()); // the page believes that they were sent here
        return;
      }
      await this.draw(data);
      if (this.isClosed) return;
      this.drawn = drawn;
    }
    this.paint(data);
    await this.mark(data);
    this.root.dataset.points = String(this.x.length); // what tests wait for
  }

  async draw(data) {
    const xy = floats(data.points);
    const n = xy.length / 2;
    this.x = Array.from({ length: n }, (_, i) => xy[2 * i]);
    this.y = Array.from({ length: n }, (_, i) => xy[2 * i + 1]);
    this.codes = Array.from(floats(data.codes));
    this.rows = floats(data.rows);
    this.names = data.names;
    this.painted = undefined;
    this.paint(data);
    this.outline = this.item = this.at = undefined;
    this.key = data.key; // whose points are numbered now
    // Of other data the same number is another point, which the library would not notice.
    this.plot.deselect({ preventEvent: true });
    this.plot.hover(undefined, { preventEvent: true });
    this.tip.hidden = true;
    await this.mark(data);
  }

  // Colors of points and of the page, which may have turned dark.
  paint(data) {
    const back = color(this.root, "--st-background-color");
    const text = color(this.root, "--st-text-color");
    const painted = JSON.stringify([back, text, data.hues]);
    if (painted === this.painted) return;
    this.painted = painted;
    const n = this.x.length;
    this.plot.set({
      backgroundColor: back,
      colorBy: "valueA",
      pointColor: data.hues,
      pointColorHover: data.hues.map(() => text),
      pointColorActive: data.hues.map(() => text),
      pointSize: n > 50000 ? 2 : n > 5000 ? 3.5 : 6,
      opacityBy: "valueB",
      opacity: [0.06, n > 50000 ? 0.5 : 0.8],
      pointSizeSelected: 4,
      lassoColor: color(this.root, "--st-primary-color"),
    });
  }

  // Show what the page holds as chosen: an outline, one point. What lies without the outline
  // fades: the library's own mark of selected points draws each of them three times more.
  async mark(data) {
    const outline = JSON.stringify([data.lasso, data.only, data.among]);
    if (outline !== this.outline) {
      this.outline = outline;
      await this.plot.draw(
        { x: this.x, y: this.y, z: this.codes, w: this.chosen(data) },
        { zDataType: "categorical", wDataType: "categorical" },
      );
      if (this.isClosed) return;
    }
    if (data.item === this.item) return;
    this.item = data.item;
    if (data.item === null) this.plot.deselect({ preventEvent: true });
    else this.plot.select(data.item, { preventEvent: true });
  }

  // Within the outline, of a brushed category, and chosen on the other map: 1, else 0.
  chosen({ lasso, only, among }) {
    const wanted = new Set(only);
    const there = among && floats(among);
    return this.inside(lasso).map((isIn, i) =>
      Number(isIn && (!wanted.size || wanted.has(this.codes[i])) && (!there || there[i] === 1)),
    );
  }

  // A bar for each category: a click or a drag over several chooses these, on the map at once.
  drawLegend(data) {
    const most = Math.max(...data.legend.map((one) => one.n));
    const lines = data.legend.map((one) => legendLine(one, most, data.only));
    const bars = lines.map((line) => line.firstChild);
    let from = null; // where a drag began
    const over = (to) => {
      const [a, b] = [Math.min(from, to), Math.max(from, to)];
      const only = data.legend.slice(a, b + 1).map((one) => one.code);
      bars.forEach((bar, i) => bar.setAttribute("aria-pressed", String(a <= i && i <= b)));
      return only;
    };
    const end = (to) => {
      if (from === null) return;
      const only = over(to);
      from = null;
      const isSame = String(only) === String(data.only); // once more: all again
      const next = { ...data, only: isSame ? [] : only };
      this.tell("brushed", [data.key, next.only]);
      this.show(next);
    };
    bars.forEach((bar, i) => {
      bar.onpointerdown = (event) => {
        event.preventDefault();
        bar.releasePointerCapture(event.pointerId);
        from = i;
        over(i);
      };
      bar.onpointerenter = () => from !== null && over(i);
      bar.onpointerup = () => end(i);
      bar.onkeydown = (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        from = i;
        end(i);
      };
    });
    this.legend.onpointerleave = () => (from = null);
    this.legend.replaceChildren(...lines);
  }

  // As dashboard.page_data.explore.inside: 1 for a point within, 0 for one without.
  inside(corners) {
    if (!corners) return this.x.map(() => 1);
    return this.x.map((x, i) => {
      const y = this.y[i];
      let isIn = false;
      for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
        const [ax, ay] = corners[a];
        const [bx, by] = corners[b];
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) isIn = !isIn;
      }
      return Number(isIn);
    });
  }

  use(name) {
    for (const [one, button] of this.tools) button.setAttribute("aria-pressed", String(one === name));
    this.plot?.set({
      mouseMode: name === "pan" ? "panZoom" : "lasso",
      lassoType: name === "box" ? "rectangle" : "freeform",
    });
  }

  // Go with an arrow key to the nearest point that way, from the middle at first.
  walk(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.x) return;
    if (event.key === "Enter" && this.at !== undefined) this.tell("clicked", [this.key, this.at]);
    const way = WAYS[event.key];
    if (!way) return;
    event.preventDefault();
    const [dx, dy] = way;
    const [x, y] = this.at === undefined ? [0, 0] : [this.x[this.at], this.y[this.at]];
    let nearest = Infinity;
    let found = this.at;
    for (let i = 0; i < this.x.length; i++) {
      const along = (this.x[i] - x) * dx + (this.y[i] - y) * dy;
      const across = Math.abs((this.x[i] - x) * dy - (this.y[i] - y) * dx);
      if (along <= 0 || along + 2 * across >= nearest) continue;
      nearest = along + 2 * across;
      found = i;
    }
    if (found === undefined) return;
    this.at = found;
    if (!this.isInView(found)) this.plot.reset();
    this.plot.hover(found, { preventEvent: true });
    this.point(found);
  }

  isInView(i) {
    const [x, y] = this.plot.getScreenPosition(i) ?? [-1, -1];
    const { width, height } = this.size();
    return x >= 0 && y >= 0 && x <= width && y <= height;
  }

  // The name at once; picture or text as soon as the server has sent them.
  async point(i) {
    const [x, y] = this.plot.getScreenPosition(i) ?? [0, 0];
    const { width, height } = this.size();
    const name = this.names[this.codes[i]] ?? "";
    this.tip.textContent = name;
    this.tip.style.left = `${x}px`;
    this.tip.style.top = `${y}px`;
    const beside = (isFar) => (isFar ? "calc(-100% - 10px)" : "10px");
    this.tip.style.transform = `translate(${beside(x > width / 2)}, ${beside(y > height / 2)})`;
    this.tip.hidden = false;
    this.asked?.abort();
    this.asked = new AbortController();
    const from = new URL(`hover/${this.wanted.hover}/${this.rows[i]}`, document.baseURI);
    try {
      const answer = await fetch(from, { signal: this.asked.signal });
      if (!answer.ok) return; // the server was started anew: the page comes again
      const item = await answer.json();
      this.tip.replaceChildren(itemShown(item), element("div", "", name));
      this.tip.dataset.id = item.id;
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  size() {
    const { width, height } = this.frame.getBoundingClientRect();
    return { width: width || 600, height: height || 500 };
  }

  resize() {
    const { width, height } = this.size();
    this.renderer?.resize(width, height);
    this.plot?.set({ width, height, aspectRatio: width / height });
  }

  close() {
    if (this.isClosed) return;
    this.isClosed = true;
    this.watch.disconnect();
    this.busy.finally(() => {
      this.plot?.destroy();
      this.renderer?.destroy();
    });
    this.root.remove();
  }
}

const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const TOOLS = [
  ["pan", "Move"],
  ["lasso", "Lasso"],
  ["box", "Box"],
];

function legendLine(one, most, only) {
  const line = element("li");
  const bar = element("button", "bar-of-one");
  bar.type = "button";
  bar.title = `Show ${one.name} only; drag over several bars for these`;
  bar.setAttribute("aria-pressed", String(only.includes(one.code)));
  const length = element("span", "length");
  length.style.background = one.color;
  length.style.width = `${Math.max(2, (100 * one.n) / most)}%`;
  const track = element("span", "track");
  track.append(length);
  bar.append(element("span", "name", one.name), track, element("span", "n", one.n.toLocaleString("en")));
  line.append(bar);
  return line;
}

function itemShown(item) {
  if (!item.image) return element("div", "words", item.text ?? item.reason);
  const image = element("img");
  image.src = item.image;
  image.alt = item.id;
  return image;
}

// At most 60 corners: they stand in the page's address.
function thinned(corners) {
  const step = Math.ceil(corners.length / 60);
  return corners
    .filter((_, i) => i % step === 0)
    .map((at) => [...at].map((one) => Number(one.toPrecision(6))));
}

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

function color(root, name) {
  const probe = element("span");
  probe.style.color = `var(${name})`;
  root.append(probe);
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
