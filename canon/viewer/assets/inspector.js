/** <canon-inspector>: frames of a fit beside its canvases, with what lies where; see canon.js. */
import { choice, followTheme, h, iconButton, isTyping, styledRoot, tell } from "./dom.js";
import { FrameStore, Timeline } from "./frames.js";
import { MapStore } from "./maps.js";
import { address, get, picture } from "./server.js";
import { Marker, Viewport } from "./viewport.js";

const VIEWS = [
  ["source", "Source"],
  ["reconstruction", "Reconstruction"],
  ["edited", "Edited"],
  ["error", "Error heat map"],
  ["opacity", "Opacity"],
  ["lighting", "Lighting"],
  ["checkerboard", "Checkerboard"],
  ["uv", "UV coordinates"],
];
const BY_LAYER = ["opacity", "lighting", "checkerboard", "uv"];
const AHEAD = 6;

/** A pane that shows one view of the frame. */
class FramePane {
  constructor(owner, view) {
    this.owner = owner;
    this.view = view;
    this.layer = "";
    this.viewport = new Viewport("Frame", owner.linked);
    this.canvas = h("canvas", { class: "picture" });
    this.viewport.world.append(this.canvas);
    this.chosen = choice("What this pane shows", VIEWS, view, (value) => this.choose(value));
    this.layers = choice("Layer", [["", "All layers"]], "", (value) => {
      this.layer = value;
      owner.show();
    });
    this.legend = h("div", { class: "legend" });
    this.head = h("div", { class: "pane-head" }, this.chosen, this.layers, this.legend);
    this.element = h("section", { class: "pane" }, this.head, this.viewport.element);
    this.marker = new Marker(this.viewport);
    this.viewport.onchange = () => owner.redrawMarkers();
    this.viewport.element.addEventListener("pointermove", (event) => owner.hoverFrame(this, event));
    this.viewport.element.addEventListener("pointerleave", () => owner.leave());
    this.viewport.element.addEventListener("click", (event) => owner.clickFrame(this, event));
    this.choose(view, false);
  }

  choose(view, show = true) {
    this.view = view;
    this.chosen.value = view;
    this.layers.hidden = !BY_LAYER.includes(view);
    this.explain();
    if (show) this.owner.show();
  }

  explain() {
    const fit = this.owner.about;
    const parts = [];
    if (this.view === "error") parts.push("0", h("i", { class: "ramp heat" }), `${fit?.error_range ?? 64}+ levels`);
    if (this.view === "lighting") parts.push("0", h("i", { class: "ramp grey" }), "2 x");
    if (this.view === "opacity" && this.layer) parts.push("0", h("i", { class: "ramp grey" }), "1");
    if (this.view === "uv") parts.push("red: u to the right, green: v down");
    if ((this.view === "opacity" && !this.layer) || this.view === "checkerboard") {
      for (const layer of fit?.layers ?? []) {
        parts.push(h("i", { class: "swatch", style: `background: rgb(${layer.tint.join(" ")})` }), layer.name);
      }
    }
    this.legend.replaceChildren(...parts);
  }

  url(frame) {
    const owner = this.owner;
    const edited = this.view === "edited";
    return address(["fits", owner.about.name, "frames", String(frame)], {
      view: this.view,
      layer: BY_LAYER.includes(this.view) ? this.layer : "",
      edits: edited ? owner.edits.join(",") : "",
      draft: edited ? owner.draft : "",
      v: edited ? owner.stamp : owner.about.version,
    });
  }

  draw(bitmap) {
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
  }
}

/** A pane that shows a layer's canvas. */
class CanvasPane {
  constructor(owner, layer) {
    this.owner = owner;
    this.layer = layer;
    this.segment = 0;
    this.follows = true;
    this.viewport = new Viewport(`Canvas of ${layer.name}`);
    this.viewport.element.classList.add("checkered");
    this.canvas = h("canvas", { class: "picture" });
    this.viewport.world.append(this.canvas);
    const several = layer.segments.length > 1;
    this.segments = choice(
      "Segment",
      layer.segments.map((part, k) => [String(k), `segment ${k} (${part.first} to ${part.last})`]),
      "0",
      (value) => this.load(Number(value)),
    );
    this.segments.hidden = !several;
    this.element = h(
      "section",
      { class: "pane" },
      h(
        "div",
        { class: "pane-head" },
        h("i", { class: "swatch", style: `background: rgb(${layer.tint.join(" ")})` }),
        h("strong", {}, layer.name),
        this.segments,
        h("span", { class: "quiet" }, `${layer.segments[0].width} x ${layer.segments[0].height}`),
      ),
      this.viewport.element,
    );
    this.marker = new Marker(this.viewport);
    this.viewport.onchange = () => owner.redrawMarkers();
    this.viewport.element.addEventListener("pointermove", (event) => owner.hoverCanvas(this, event));
    this.viewport.element.addEventListener("pointerleave", () => owner.leave());
  }

  get part() {
    return this.layer.segments[this.segment];
  }

  async load(segment = this.segment) {
    this.segment = segment;
    this.segments.value = String(segment);
    const edited = this.owner.showsEdited;
    const url = address(["fits", this.owner.about.name, "canvases", this.layer.name], {
      segment,
      edits: edited ? this.owner.edits.join(",") : "",
      draft: edited ? this.owner.draft : "",
      v: this.owner.stamp,
    });
    if (url === this.shown) return;
    this.shown = url;
    this.viewport.setSize(this.part.width, this.part.height);
    const bitmap = await picture(url);
    if (!bitmap || this.shown !== url) return;
    this.canvas.width = bitmap.width;
    this.canvas.height = bitmap.height;
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
  }
}

export class CanonInspector extends HTMLElement {
  constructor() {
    super();
    this.about = null;
    this.stack = [];
    this.draft = "";
    this.stamp = "";
    this.linked = [];
    this.store = new FrameStore();
    this.maps = new MapStore();
    this.path = null;
    this.root = styledRoot(this);
    this.panes = [new FramePane(this, "source"), new FramePane(this, "reconstruction")];
    this.canvases = [];
    this.timeline = new Timeline({
      onframe: (frame) => {
        this.show();
        tell(this, "canon-frame", { frame });
      },
      ready: (frame) => this.panesShown().every((pane) => this.store.peek(pane.url(frame))),
      wish: (frame) => this.fetchAhead(frame),
    });
    this.message = h("div", { class: "message", role: "status", hidden: true });
    this.readout = h("div", { class: "readout", "aria-live": "off" }, h("span", { class: "quiet" }, "Point at a pixel to see where it lies."));
    this.buttons = {
      two: this.toggle("Two views", true, () => this.layout()),
      wipe: this.toggle("Wipe", false, () => this.layout()),
      canvases: this.toggle("Canvases", true, () => this.layout()),
      track: this.toggle("Track a point", false, () => this.clearTrack()),
    };
    this.wipe = h("input", { type: "range", class: "wipe", min: 0, max: 1000, value: 500, "aria-label": "Where the two views meet", oninput: () => this.cut() });
    this.frames = h("div", { class: "frames" }, ...this.panes.map((pane) => pane.element), this.wipe);
    this.below = h("div", { class: "canvases" });
    this.body = h("div", { class: "inspector-body" }, this.frames, this.below);
    this.root.append(
      h(
        "div",
        { class: "app", tabindex: "0", role: "group", "aria-label": "Look at a fit" },
        h(
          "div",
          { class: "bar" },
          ...Object.values(this.buttons),
          iconButton("fit", "Show everything (0)", () => this.fitAll()),
          h("span", { class: "grow" }),
          this.readout,
        ),
        this.body,
        h("div", { class: "bar bottom" }, this.timeline.element),
        this.message,
      ),
    );
    this.root.querySelector(".app").addEventListener("keydown", (event) => this.key(event));
    this.layout();
  }

  connectedCallback() {
    this.stopTheme = followTheme(this);
  }

  disconnectedCallback() {
    this.stopTheme?.();
    this.timeline.pause();
  }

  toggle(text, on, changed) {
    const button = h("button", { type: "button", class: "chip", "aria-pressed": String(on) }, text);
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      changed();
    });
    return button;
  }

  is(name) {
    return this.buttons[name].getAttribute("aria-pressed") === "true";
  }

  // --- what it shows ---

  get frame() {
    return this.timeline.frame;
  }

  set frame(frame) {
    this.timeline.go(Number(frame));
  }

  get edits() {
    return this.stack;
  }

  set edits(names) {
    this.stack = [...names];
    this.refresh();
  }

  get showsEdited() {
    return this.stack.length > 0 || Boolean(this.draft);
  }

  play() {
    this.timeline.play();
  }

  pause() {
    this.timeline.pause();
  }

  async open({ fit = null, edits = [], frame = null, draft = "" } = {}) {
    try {
      const name = fit || (await get(["fits"])).fits.at(-1)?.name;
      if (!name) throw new Error("This project has no fit yet.");
      this.timeline.pause();
      this.about = await get(["fits", name]);
    } catch (error) {
      this.say(error.message);
      tell(this, "canon-error", { message: error.message });
      throw error;
    }
    this.say("");
    this.stack = [...edits];
    this.draft = draft ?? "";
    this.stamp = `${this.about.version}-${Date.now()}`;
    this.maps.clear();
    this.store.clear();
    this.clearTrack();
    const names = this.about.layers.map((layer) => [layer.name, layer.name]);
    for (const pane of this.panes) {
      pane.layers.fill([["", "All layers"], ...names], "");
      pane.layer = "";
      pane.viewport.fitted = true;
      pane.viewport.setSize(this.about.width, this.about.height);
      pane.explain();
    }
    if (this.showsEdited && this.panes[1].view === "reconstruction") this.panes[1].choose("edited", false);
    this.canvases = this.about.layers.map((layer) => new CanvasPane(this, layer));
    this.below.replaceChildren(...this.canvases.map((pane) => pane.element));
    this.timeline.frame = 0;
    this.timeline.setCount(this.about.frames, this.about.fps);
    if (frame !== null) this.timeline.show(Math.min(Math.max(Number(frame), 0), this.about.frames - 1));
    this.layout();
    tell(this, "canon-opened", { fit: this.about.name });
  }

  /** Something changed on disk. */
  async refresh() {
    if (!this.about) return;
    this.stamp = `${this.about.version}-${Date.now()}`;
    this.canvases.forEach((pane) => pane.load());
    this.show();
  }

  panesShown() {
    return this.is("two") || this.is("wipe") ? this.panes : this.panes.slice(0, 1);
  }

  layout() {
    const wiping = this.is("wipe");
    this.body.classList.toggle("wiping", wiping);
    this.body.classList.toggle("single", !this.is("two") && !wiping);
    this.below.hidden = !this.is("canvases");
    this.wipe.hidden = !wiping;
    this.cut();
    if (this.about) this.show();
    requestAnimationFrame(() => this.panes.forEach((pane) => pane.viewport.fitted && pane.viewport.fit()));
  }

  cut() {
    const share = Number(this.wipe.value) / 10;
    this.panes[1].viewport.element.style.clipPath = this.is("wipe") ? `inset(0 0 0 ${share}%)` : "";
    this.frames.style.setProperty("--wipe", `${share}%`);
  }

  fitAll() {
    [...this.panes, ...this.canvases].forEach((pane) => pane.viewport.fit());
  }

  show() {
    if (!this.about) return;
    const missing = [];
    for (const pane of this.panesShown()) {
      const bitmap = this.store.peek(pane.url(this.frame));
      if (bitmap) pane.draw(bitmap);
      else missing.push(pane.url(this.frame));
    }
    for (const pane of this.canvases) {
      const part = pane.layer.segments.findIndex((each) => this.frame >= each.first && this.frame <= each.last);
      if (this.is("canvases")) pane.load(pane.layer.segments.length > 1 && part >= 0 ? part : pane.segment);
    }
    if (missing.length) this.store.want(missing, () => this.show(), (error) => this.say(error.message));
    else {
      this.say("");
      this.fetchAhead(this.frame, this.timeline.playing ? AHEAD : 2);
    }
    this.redrawTrack();
    if (this.pointed) this.point(this.pointed);
  }

  fetchAhead(frame, ahead = AHEAD) {
    const { count, fps, playing } = this.timeline;
    const panes = this.panesShown();
    // What cannot come in time is left out.
    const stride = playing ? Math.max(1, Math.ceil((fps * this.store.seconds * panes.length) / this.store.atOnce)) : 1;
    const urls = [];
    for (let k = 1; k <= ahead && k < count; k++) {
      for (const pane of panes) urls.push(pane.url((frame + k * stride) % count));
    }
    this.store.want(urls, () => {});
  }

  // --- what lies where ---

  hoverFrame(pane, event) {
    if (!this.about || pane.viewport.moving) return;
    const at = pane.viewport.toWorld(event);
    if (!pane.viewport.contains(at)) return this.leave();
    this.point({ frame: [at[0] - 0.5, at[1] - 0.5] });
  }

  hoverCanvas(pane, event) {
    if (!this.about || pane.viewport.moving) return;
    const at = pane.viewport.toWorld(event);
    if (!pane.viewport.contains(at)) return this.leave();
    this.point({ pane, canvas: [at[0] - 0.5 + pane.part.x, at[1] - 0.5 + pane.part.y] });
  }

  leave() {
    this.pointed = null;
    for (const pane of [...this.panes, ...this.canvases]) pane.marker.hide();
    clearTimeout(this.asking);
    this.readout.replaceChildren(h("span", { class: "quiet" }, "Point at a pixel to see where it lies."));
  }

  point(pointed) {
    this.pointed = pointed;
    const again = () => this.pointed === pointed && this.point(pointed);
    const map = (layer) => this.maps.peek(this.about.name, this.frame, layer, again);
    let pixel = pointed.frame;
    if (pointed.pane) {
      const own = map(pointed.pane.layer.name);
      pixel = own && own.segment === pointed.pane.segment ? own.toFrame(...pointed.canvas) : null;
      const inside = pixel && pixel[0] >= -0.5 && pixel[1] >= -0.5 && pixel[0] <= this.about.width - 0.5 && pixel[1] <= this.about.height - 0.5;
      if (!inside) pixel = null;
    }
    for (const pane of this.panes) {
      if (pixel) pane.marker.show(pixel[0] + 0.5, pixel[1] + 0.5);
      else pane.marker.hide();
    }
    for (const pane of this.canvases) {
      const own = map(pane.layer.name);
      let at = pane === pointed.pane ? pointed.canvas : null;
      if (!at && pixel && own && own.segment === pane.segment) at = own.toCanvas(...pixel);
      const [x, y] = at ? [at[0] - pane.part.x, at[1] - pane.part.y] : [-1, -1];
      if (x >= -0.5 && y >= -0.5 && x <= pane.part.width && y <= pane.part.height) {
        pane.marker.show(x + 0.5, y + 0.5, null, this.weights?.[pane.layer.name] < 0.5 && this.weights.at === String(pixel));
      } else pane.marker.hide();
    }
    clearTimeout(this.asking);
    if (!pixel) this.readout.replaceChildren(h("span", { class: "quiet" }, "This place is not in the frame."));
    else if (!this.timeline.playing) this.asking = setTimeout(() => this.ask(pixel), 40);
  }

  async ask([x, y]) {
    const frame = this.frame;
    let found;
    try {
      found = await get(["fits", this.about.name, "probe"], { t: frame, x, y });
    } catch {
      return;
    }
    if (frame !== this.frame || !this.pointed) return;
    this.weights = { at: String([x, y]) };
    const parts = [h("span", { class: "quiet" }, `${Math.round(x)}, ${Math.round(y)}`)];
    for (const layer of found.layers) {
      this.weights[layer.layer] = layer.weight;
      const swatch = h("i", { class: "swatch", style: `background: rgb(${layer.colour.join(" ")})` });
      const where = `${layer.x.toFixed(1)}, ${layer.y.toFixed(1)}`;
      parts.push(h("span", { class: layer.weight < 0.5 ? "probe quiet" : "probe" }, swatch, `${layer.layer} ${where} · ${Math.round(100 * layer.weight)} %`));
    }
    this.readout.replaceChildren(...parts);
    for (const pane of this.canvases) {
      pane.marker.shape.classList.toggle("faint", this.weights[pane.layer.name] < 0.5);
    }
  }

  redrawMarkers() {
    for (const pane of [...this.panes, ...this.canvases]) pane.marker?.draw();
    this.redrawTrack();
  }

  // --- a point through the clip ---

  async clickFrame(pane, event) {
    if (!this.is("track") || !this.about) return;
    const [x, y] = pane.viewport.toWorld(event);
    if (!pane.viewport.contains([x, y])) return;
    try {
      this.path = await get(["fits", this.about.name, "track"], { t: this.frame, x: x - 0.5, y: y - 0.5 });
    } catch (error) {
      return this.say(error.message);
    }
    this.redrawTrack();
  }

  clearTrack() {
    this.path = null;
    this.redrawTrack();
  }

  redrawTrack() {
    for (const pane of this.panes ?? []) {
      pane.viewport.overlay.querySelectorAll(".track").forEach((old) => old.remove());
      if (!this.path) continue;
      const make = (name, attributes, kind) => {
        const shape = document.createElementNS("http://www.w3.org/2000/svg", name);
        for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
        shape.setAttribute("class", `track ${kind}`);
        pane.viewport.overlay.append(shape);
      };
      const places = this.path.points.map(([x, y]) => pane.viewport.toScreen(x + 0.5, y + 0.5));
      for (let k = 1; k < places.length; k++) {
        const [a, b] = [places[k - 1], places[k]];
        const seen = this.path.visible[k] && this.path.visible[k - 1];
        make("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1] }, `${seen ? "seen" : "unseen"} ${k <= this.frame ? "past" : "to-come"}`);
      }
      const here = places[this.frame];
      if (here) make("circle", { cx: here[0], cy: here[1], r: 5 }, this.path.visible[this.frame] ? "here" : "here unseen");
    }
  }

  // --- the rest ---

  key(event) {
    if (isTyping(event)) return;
    if (event.key === "0" && !event.ctrlKey) this.fitAll();
    else this.timeline.key(event);
  }

  say(text) {
    this.message.textContent = text;
    this.message.hidden = !text;
  }
}
