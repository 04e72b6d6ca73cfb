/** <canon-painter>: paint on a canvas or a frame and see the video change; see canon.js. */
import { Brush } from "./brush.js";
import { LayerBuffer, Sender, union } from "./buffers.js";
import { choice, followTheme, h, icon, iconButton, isTyping, slider, styledRoot, tell } from "./dom.js";
import { Timeline } from "./frames.js";
import { LayersPanel, place } from "./layers.js";
import { MapStore } from "./maps.js";
import { FONTS, Handles, draw } from "./placing.js";
import { Latest, Outbox, ServerError, TAB, address, ask, get, picture, send } from "./server.js";
import { Marker, Viewport } from "./viewport.js";

const ALIVE = 5000;
const TOOLS = [
  ["brush", "Brush (B)", "b"],
  ["eraser", "Eraser (E)", "e"],
  ["picker", "Pick a colour (I; or hold Alt)", "i"],
  ["text", "Text (T)", "t"],
  ["hand", "Move the view (H; or hold Space)", "h"],
];

let counter = 0;

export class CanonPainter extends HTMLElement {
  constructor() {
    super();
    this.about = null;
    this.state = null;
    this.target = null;
    this.buffers = new Map();
    this.active = null;
    this.tool = "brush";
    this.settings = { size: 40, hardness: 0.8, opacity: 1, colour: "#e8432f" };
    this.brush = new Brush();
    this.maps = new MapStore();
    this.assets = new Map();
    this.outbox = new Outbox((connected, sentence) => this.connection(connected, sentence));
    this.outbox.onReconnect = () => this.reconnect();
    this.live = new Latest((bitmap, tag) => this.showPreview(bitmap, tag));
    this.live.failed = (error) => error instanceof ServerError && error.status > 0 && this.say(error.message);
    this.root = styledRoot(this);
    this.build();
  }

  connectedCallback() {
    this.stopTheme = followTheme(this);
    this.beat = setInterval(() => this.alive(), ALIVE);
    this.onleave = () => {
      if (this.draft) navigator.sendBeacon(address(["drafts", this.draft, "release"]), JSON.stringify({ tab: TAB }));
    };
    addEventListener("pagehide", this.onleave);
  }

  disconnectedCallback() {
    this.stopTheme?.();
    clearInterval(this.beat);
    removeEventListener("pagehide", this.onleave);
    this.timeline.pause();
  }

  // --- its parts ---

  build() {
    this.stage = new Viewport("What you paint on");
    this.stage.doubleFits = false;
    this.stage.element.classList.add("stage", "checkered");
    this.stage.pans = (event) => event.button === 0 && (this.tool === "hand" || this.spaceHeld);
    this.bottom = h("canvas", { class: "picture" });
    this.stage.world.append(this.bottom);
    this.stage.onchange = () => {
      this.handles?.draw();
      this.cursor?.draw();
    };
    this.cursor = new Marker(this.stage, "cursor");
    this.handles = new Handles(this.stage, {
      onbegin: () => {
        clearTimeout(this.textTimer);
        this.beginPlacing();
      },
      onchange: () => this.redrawPlaced(),
      onend: () => this.endPlacing(),
    });
    const { element } = this.stage;
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.up(event));
    element.addEventListener("pointercancel", (event) => this.up(event));
    element.addEventListener("pointerleave", () => this.hideCursor());
    element.addEventListener("contextmenu", (event) => event.preventDefault());

    this.preview = new Viewport("Preview of a frame");
    this.previewCanvas = h("canvas", { class: "picture" });
    this.preview.world.append(this.previewCanvas);
    this.mirror = new Marker(this.preview, "cursor");
    this.preview.onchange = () => this.mirror?.draw();
    this.timeline = new Timeline({
      onframe: () => this.wantPreview(),
      ready: () => !this.live.busy,
    });
    this.before = h("button", { type: "button", class: "chip", "aria-pressed": "false", title: "Show the source (hold O)", onclick: () => this.compare(!this.comparing) }, "Before");

    this.toolButtons = TOOLS.map(([name, label]) => iconButton(name, label, () => this.choose(name), { "aria-pressed": String(name === this.tool), "data-tool": name }));
    this.file = h("input", { type: "file", accept: ".png,.jpg,.jpeg,.webp,.ora,.psd,image/*", hidden: true, "aria-label": "File" });
    this.file.addEventListener("change", () => {
      [...this.file.files].forEach((file) => this.take(file));
      this.file.value = "";
    });
    const sticker = iconButton("image", "Place a picture (or drop one here)", () => this.file.click(), { "data-tool": "image" });
    this.colour = h("input", { type: "color", value: this.settings.colour, "aria-label": "Colour", class: "colour" });
    this.colour.addEventListener("input", () => this.setColour(this.colour.value));
    this.sizeSlider = slider("Size", {
      min: 1, max: 400, value: this.settings.size, curve: 2.2, format: (value) => `${value} px`,
      onvalue: (value) => (this.settings.size = value),
    });
    this.brushOptions = h(
      "div",
      { class: "options" },
      this.sizeSlider,
      slider("Hardness", { min: 0, max: 1, step: 0.01, value: this.settings.hardness, format: percent, onvalue: (value) => (this.settings.hardness = value) }),
      slider("Opacity", { min: 0.02, max: 1, step: 0.01, value: this.settings.opacity, format: percent, onvalue: (value) => (this.settings.opacity = value) }),
    );
    this.words = h("textarea", { rows: 1, "aria-label": "Text", placeholder: "Text", spellcheck: "false" });
    this.words.addEventListener("input", () => this.retext({ text: this.words.value }));
    this.font = choice("Font", FONTS, FONTS[0][0], (font) => this.retext({ font }));
    this.textOptions = h(
      "div",
      { class: "options", hidden: true },
      this.words,
      this.font,
      (this.textSize = slider("Size", { min: 8, max: 400, value: 64, curve: 2, format: (value) => `${value} px`, onvalue: (size) => this.retext({ size }) })),
      (this.bold = h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => this.retext({ bold: !this.placed?.about.extra.bold }) }, "Bold")),
    );
    this.targets = h("select", { "aria-label": "Paint on", class: "target" });
    this.targets.addEventListener("change", () => this.aim(JSON.parse(this.targets.value)).catch((error) => this.say(error.message)));
    this.undoButton = iconButton("undo", "Undo (Ctrl+Z)", () => this.undo(), { disabled: true });
    this.redoButton = iconButton("redo", "Redo (Ctrl+Shift+Z)", () => this.redo(), { disabled: true });
    this.saveName = h("input", { type: "text", placeholder: "name of the edit", "aria-label": "Name of the edit", maxlength: 80, spellcheck: "false" });
    this.saveName.addEventListener("keydown", (event) => event.key === "Enter" && this.trySave());
    this.saveButton = h("button", { type: "button", class: "primary", onclick: () => this.trySave() }, "Save");
    this.layersPanel = new LayersPanel({
      choose: (layer) => this.activate(layer.id),
      change: (layer, changes, sliding, last) => this.changeLayer(layer, changes, sliding, last),
      remove: (layer) => this.mutate("DELETE", ["layers", String(layer.id)]),
      move: (layer, by) => this.reorder(layer, by),
      moveTo: (id, other) => this.mutate("PATCH", ["layers", String(id)], {}, { at: this.state.layers.findIndex((each) => each.id === other.id) }),
      add: () => this.addLayer().catch((error) => this.say(error.message)),
    });
    this.exchange = h(
      "div",
      { class: "exchange" },
      h("button", { type: "button", class: "small", title: "Open a layered file or picture", onclick: () => this.file.click() }, icon("import"), "Import"),
      ...["ora", "psd", "png"].map((format) =>
        h("button", { type: "button", class: "small", title: `Download the layers as .${format}`, onclick: () => this.exportAs(format) }, icon("export"), format.toUpperCase()),
      ),
    );
    this.message = h("div", { class: "message", role: "status", hidden: true });
    this.offer = h("div", { class: "offer", hidden: true });
    this.app = h(
      "div",
      { class: "app painter", tabindex: "0", role: "group", "aria-label": "Paint" },
      h(
        "div",
        { class: "bar" },
        h("label", { class: "aim" }, "Paint on", this.targets),
        h("span", { class: "divider" }),
        this.colour,
        this.brushOptions,
        this.textOptions,
        h("span", { class: "grow" }),
        this.undoButton,
        this.redoButton,
        iconButton("fit", "Show everything (0)", () => this.fitAll()),
      ),
      h(
        "div",
        { class: "painter-body" },
        h("div", { class: "tools", role: "toolbar", "aria-label": "Tools", "aria-orientation": "vertical" }, ...this.toolButtons.slice(0, 3), sticker, ...this.toolButtons.slice(3)),
        this.stage.element,
        h(
          "div",
          { class: "side" },
          h(
            "section",
            { class: "panel preview-panel", "aria-label": "Preview" },
            h("div", { class: "panel-head" }, (this.previewTitle = h("strong", {}, "Preview")), h("span", { class: "grow" }), (this.latency = h("span", { class: "quiet latency" })), this.before),
            this.preview.element,
            this.timeline.element,
          ),
          this.layersPanel.element,
          h("section", { class: "panel save-panel", "aria-label": "Save" }, this.exchange, h("div", { class: "save" }, this.saveName, this.saveButton)),
        ),
      ),
      this.file,
      this.offer,
      this.message,
    );
    this.app.addEventListener("keydown", (event) => this.key(event));
    this.app.addEventListener("pointerdown", (event) => isTyping(event) || this.app.focus({ preventScroll: true }), true);
    this.app.addEventListener("keyup", (event) => this.keyUp(event));
    this.app.addEventListener("blur", () => (this.spaceHeld = false));
    this.app.addEventListener("dragover", (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());
    this.app.addEventListener("drop", (event) => this.drop(event));
    this.app.addEventListener("paste", (event) => [...event.clipboardData.files].forEach((file) => this.take(file)));
    this.root.append(this.app);
  }

  // --- opening ---

  get draft() {
    return this.state?.id ?? null;
  }

  get fit() {
    return this.state?.fit ?? null;
  }

  get edits() {
    return this.state?.edits ?? [];
  }

  get empty() {
    return !this.state?.layers.length;
  }

  async open({ fit = null, layer = null, segment = 0, frame = null, onFrame = false, edits = null, draft = null } = {}) {
    try {
      const name = fit || (await get(["fits"])).fits.at(-1)?.name;
      if (!name) throw new Error("This project has no fit yet.");
      const about = await get(["fits", name]);
      if (this.state) await this.flush();
      if (!this.state || this.state.fit !== name || (draft && draft !== this.draft)) {
        if (this.draft) send("POST", ["drafts", this.draft, "release"], {}, { tab: TAB }).catch(() => {});
        this.about = about;
        this.state = await this.ownDraft(name, draft, edits ?? []);
      }
      this.about = about;
      if (edits && String(edits) !== String(this.edits)) this.state = await send("POST", ["drafts", this.draft, "stack"], { tab: TAB }, { edits });
    } catch (error) {
      this.say(error.message);
      tell(this, "canon-error", { message: error.message });
      throw error;
    }
    this.say("");
    remember(this.fit, this.draft);
    this.maps.clear();
    this.buffers.clear();
    this.active = null;
    this.timeline.setCount(this.about.frames, this.about.fps);
    if (frame !== null) this.timeline.show(Math.min(Math.max(Number(frame), 0), this.about.frames - 1));
    this.preview.setSize(this.about.width, this.about.height);
    const top = this.state.layers.at(-1);
    const chosen = layer ?? null;
    if (onFrame) await this.aim({ layer: null, segment: 0, frame: this.timeline.frame });
    else if (chosen === null && top) await this.aim(top.target);
    else await this.aim({ layer: chosen ?? this.about.layers[0].name, segment: Number(segment), frame: null });
    this.offerOthers();
    this.changed();
    tell(this, "canon-opened", { fit: this.fit, draft: this.draft });
  }

  /** The drawing that was asked for, that of this tab before it was loaded again, or a new one. */
  async ownDraft(fit, draft, edits) {
    const before = draft ?? remembered(fit);
    if (before) {
      try {
        const state = await send("POST", ["drafts", before, "open"], {}, { tab: TAB });
        if (state.fit === fit) return state;
      } catch (error) {
        if (draft || !(error instanceof ServerError) || error.status === 0) throw error;
      }
    }
    return send("POST", ["drafts"], {}, { fit, edits, tab: TAB });
  }

  /** Drawings on this fit that were left. */
  async offerOthers() {
    let drafts = [];
    try {
      ({ drafts } = await get(["drafts"]));
    } catch {
      return;
    }
    const left = drafts.filter((each) => each.fit === this.fit && each.id !== this.draft && !each.open);
    const newest = left[0];
    this.offer.hidden = !newest || this.state.layers.length > 0;
    if (this.offer.hidden) return;
    const when = new Date(newest.saved * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
    this.offer.replaceChildren(
      h("span", {}, `A drawing of ${when} was left here (${newest.layers.join(", ")}).`),
      h("button", { type: "button", onclick: () => this.open({ fit: this.fit, draft: newest.id }).then(() => (this.offer.hidden = true)) }, "Go on with it"),
      h("button", { type: "button", onclick: () => this.forget(newest.id) }, "Throw it away"),
      iconButton("close", "Not now", () => (this.offer.hidden = true)),
    );
  }

  async forget(id) {
    await send("DELETE", ["drafts", id]).catch(() => {});
    this.offerOthers();
  }

  /** An empty drawing on the same fit. */
  async startAnew() {
    await this.flush();
    const { fit, edits } = this;
    send("POST", ["drafts", this.draft, "release"], {}, { tab: TAB }).catch(() => {});
    this.state = await send("POST", ["drafts"], {}, { fit, edits, tab: TAB });
    remember(fit, this.draft);
    this.buffers.clear();
    this.active = null;
    await this.aim(this.target);
    this.changed();
  }

  async setEdits(edits) {
    this.state = await this.outbox.push(() => send("POST", ["drafts", this.draft, "stack"], { tab: TAB }, { edits }));
    await this.loadBottom();
    this.changed();
  }

  /** Something changed on disk. */
  async refresh() {
    if (!this.draft) return;
    this.stamp = Date.now();
    await this.loadBottom();
    this.wantPreview();
  }

  async flush() {
    clearTimeout(this.textTimer);
    await this.endPlacing();
    await this.outbox.settled();
  }

  // --- what is painted on ---

  get size() {
    if (this.target.frame !== null) return [this.about.width, this.about.height];
    const part = this.part;
    return [part.width, part.height];
  }

  get part() {
    return this.about.layers.find((layer) => layer.name === this.target.layer)?.segments[this.target.segment];
  }

  async aim(target) {
    this.target = { layer: target.layer ?? null, segment: target.segment ?? 0, frame: target.frame ?? null };
    if (this.target.frame === null && !this.part) throw new Error(`There is no canvas of '${place(this.target)}' in this fit.`);
    this.fillTargets();
    this.stage.setSize(...this.size);
    this.stage.fit();
    this.handles.hide();
    await this.loadBottom();
    await this.arrange();
    const own = this.state.layers.filter((layer) => this.here(layer));
    this.activate((own.find((layer) => layer.id === this.active) ?? own.at(-1))?.id ?? null);
    this.wantPreview();
  }

  here(layer) {
    return place(layer.target) === place(this.target);
  }

  fillTargets() {
    const options = [];
    for (const layer of this.about.layers) {
      layer.segments.forEach((part, segment) => {
        const text = layer.segments.length > 1 ? `${layer.name}, segment ${segment} (frames ${part.first} to ${part.last})` : `${layer.name} (canvas)`;
        options.push([{ layer: layer.name, segment, frame: null }, text]);
      });
    }
    const frames = new Set([this.timeline.frame, ...this.state.layers.map((layer) => layer.target.frame).filter((frame) => frame !== null)]);
    if (this.target.frame !== null) frames.add(this.target.frame);
    for (const frame of [...frames].sort((a, b) => a - b)) options.push([{ layer: null, segment: 0, frame }, `frame ${frame}`]);
    this.targets.replaceChildren(...options.map(([value, text]) => h("option", { value: JSON.stringify(value) }, text)));
    this.targets.value = JSON.stringify({ layer: this.target.frame === null ? this.target.layer : null, segment: this.target.segment, frame: this.target.frame });
  }

  async loadBottom() {
    const { target } = this;
    const query = { edits: this.edits.join(","), s: this.stamp };
    const url =
      target.frame === null
        ? address(["fits", this.fit, "canvases", target.layer], { ...query, segment: target.segment })
        : address(["fits", this.fit, "frames", String(target.frame)], { ...query, view: "edited", format: "png" });
    const bitmap = await picture(url);
    if (!bitmap || target !== this.target) return;
    this.bottom.width = bitmap.width;
    this.bottom.height = bitmap.height;
    this.bottom.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
  }

  /** Layers of the target on the stage, in order; what is new is taken from the server. */
  async arrange() {
    const known = new Set(this.state.layers.map((layer) => layer.id));
    for (const id of [...this.buffers.keys()]) {
      if (known.has(id)) continue;
      this.buffers.get(id).canvas.remove();
      this.buffers.delete(id);
    }
    const loads = [];
    for (const layer of this.state.layers) {
      let buffer = this.buffers.get(layer.id);
      if (buffer) {
        const moving = buffer === this.placing?.buffer || buffer === this.finishing;
        const extra = moving ? buffer.about.extra : layer.extra;
        buffer.about = { ...layer, extra };
        buffer.show();
      } else if (this.here(layer)) {
        buffer = new LayerBuffer(layer, layer.size[1], layer.size[0]);
        this.buffers.set(layer.id, buffer);
        loads.push(buffer.load(this.draft));
      }
    }
    await Promise.all(loads);
    const shown = this.state.layers.filter((layer) => this.here(layer) && this.buffers.has(layer.id)).map((layer) => this.buffers.get(layer.id).canvas);
    const now = [...this.stage.world.children].slice(1);
    if (shown.length !== now.length || shown.some((canvas, k) => canvas !== now[k])) this.stage.world.replaceChildren(this.bottom, ...shown);
    this.paintPanel();
  }

  paintPanel() {
    this.layersPanel.show(this.state.layers, this.active, this.target);
    this.undoButton.disabled = !this.state.undo;
    this.redoButton.disabled = !this.state.redo;
    this.undoButton.title = this.state.undo ? `Undo: ${this.state.undo} (Ctrl+Z)` : "Nothing to undo";
    this.redoButton.title = this.state.redo ? `Redo: ${this.state.redo} (Ctrl+Shift+Z)` : "Nothing to redo";
  }

  async activate(id) {
    const layer = this.state.layers.find((each) => each.id === id);
    this.active = layer?.id ?? null;
    if (layer && !this.here(layer)) return this.aim(layer.target);
    this.paintPanel();
    await this.showHandles();
  }

  // --- changes of layers ---

  /** Tell the server, and show what comes of it. */
  async mutate(method, parts, query = {}, value = undefined) {
    try {
      const state = await this.outbox.push(() => send(method, ["drafts", this.draft, ...parts], { tab: TAB, ...query }, value));
      await this.take_(state);
      return state;
    } catch (error) {
      this.say(error.message);
      throw error;
    }
  }

  /** A new state of the drawing. */
  async take_(state) {
    const { places, layer, added, ...rest } = state;
    this.state = rest;
    for (const place_ of places ?? []) {
      const buffer = this.buffers.get(place_.layer);
      if (!buffer || !rest.layers.some((each) => each.id === place_.layer)) continue;
      const { layer: _, ...box } = place_;
      await buffer.load(this.draft, box);
      buffer.drawn = null;
    }
    if (places) this.brush.forget();
    if (!rest.layers.some((each) => each.id === this.active)) this.active = rest.layers.filter((each) => this.here(each)).at(-1)?.id ?? null;
    await this.arrange();
    await this.showHandles();
    this.changed();
  }

  async addLayer(more = {}, stroke = "") {
    const state = await this.mutate("POST", ["layers"], { stroke }, { target: this.target, kind: "brush", ...more });
    this.active = state.layer.id;
    this.paintPanel();
    return this.buffers.get(state.layer.id);
  }

  changeLayer(layer, changes, sliding = false, last = false) {
    const own = this.state.layers.find((each) => each.id === layer.id);
    if (!own) return;
    Object.assign(own, changes);
    const buffer = this.buffers.get(layer.id);
    if (buffer) {
      Object.assign(buffer.about, changes);
      buffer.show();
    }
    if (!sliding) return void this.mutate("PATCH", ["layers", String(layer.id)], {}, changes).catch(() => {});
    this.sliding ??= { stroke: newStroke(), waiting: false };
    const { sliding: slide } = this;
    if (last) this.sliding = null;
    if (slide.waiting && !last) return;
    slide.waiting = true;
    const job = async () => {
      slide.waiting = false;
      const state = await send("PATCH", ["drafts", this.draft, "layers", String(layer.id)], { tab: TAB, stroke: slide.stroke }, { opacity: own.opacity });
      this.state = { ...state, layer: undefined };
      if (last) this.paintPanel();
      this.changed();
    };
    this.outbox.push(job).catch((error) => this.say(error.message));
  }

  reorder(layer, by) {
    const at = this.state.layers.findIndex((each) => each.id === layer.id) + by;
    if (at >= 0 && at < this.state.layers.length) this.mutate("PATCH", ["layers", String(layer.id)], {}, { at }).catch(() => {});
  }

  undo() {
    return this.mutate("POST", ["undo"]).catch(() => {});
  }

  redo() {
    return this.mutate("POST", ["redo"]).catch(() => {});
  }

  // --- painting ---

  async sendPatch(buffer, box, png, stroke, label) {
    const parts = ["drafts", this.draft, "layers", String(buffer.about.id), "patch"];
    const answer = await ask(address(parts, { tab: TAB, x: box.x, y: box.y, stroke, label }), { method: "POST", body: png, headers: { "Content-Type": "image/png" } });
    const { revision } = await answer.json();
    this.state.revision = revision;
    this.state.undo = label;
    this.state.redo = null;
    if (this.undoButton.disabled) this.paintPanel();
    this.changed();
  }

  /** Changes that are sent with the same stroke are undone together. */
  sender(buffer, label, stroke = newStroke()) {
    const sender = new Sender(buffer, this.outbox, (own, box, png) => this.sendPatch(own, box, png, stroke, label));
    sender.stroke = stroke;
    return sender;
  }

  get placed() {
    const buffer = this.buffers.get(this.active);
    return buffer && buffer.about.kind !== "brush" ? buffer : null;
  }

  /** The layer that a brush paints on; a new one above where the chosen one is none. */
  paintable() {
    const buffer = this.buffers.get(this.active);
    return buffer && buffer.about.kind === "brush" && buffer.about.visible && this.here(buffer.about) ? buffer : null;
  }

  down(event) {
    if (!this.about || event.button !== 0 || this.stage.moving) return;
    const [x, y] = this.stage.toWorld(event);
    if (this.tool === "picker" || event.altKey) {
      this.stage.element.setPointerCapture(event.pointerId);
      this.picking = true;
      return this.pick(x, y);
    }
    if (this.tool === "text") return void this.addText(x, y);
    if (this.tool !== "brush" && this.tool !== "eraser") return;
    event.preventDefault();
    this.stage.element.setPointerCapture(event.pointerId);
    this.beginStroke(event, x, y);
  }

  async beginStroke(event, x, y) {
    const held = [[x, y, pressureOf(event)]];
    const stroke = { id: event.pointerId, held, last: null };
    this.stroke = stroke;
    stroke.from = event.shiftKey && this.lastPoint ? this.lastPoint : null;
    let buffer = this.paintable();
    const group = newStroke();
    if (!buffer) {
      if (this.tool === "eraser") {
        this.stroke = null;
        return this.say("Choose a layer of paint to erase on.");
      }
      try {
          buffer = await this.addLayer({}, group);
      } catch {
        if (this.stroke === stroke) this.stroke = null;
        return;
      }
    }
    stroke.buffer = buffer;
    stroke.sender = this.sender(buffer, this.tool === "eraser" ? "erase" : "paint", group);
    const { size, hardness, opacity, colour } = this.settings;
    const tool = { size, hardness, opacity, colour, erase: this.tool === "eraser" };
    const [first, ...rest] = stroke.held;
    const start = stroke.from ?? first;
    stroke.sender.touch(this.brush.begin(buffer, tool, ...start));
    const more = stroke.from ? [first, ...rest] : rest;
    if (more.length) stroke.sender.touch(this.brush.move(more));
    stroke.held = null;
    if (stroke.ended) this.endStroke(stroke);
  }

  move(event) {
    if (!this.about) return;
    const at = this.stage.toWorld(event);
    this.showCursor(at);
    if (this.picking) return this.pick(...at);
    const { stroke } = this;
    if (!stroke || stroke.id !== event.pointerId) return;
    const events = event.getCoalescedEvents?.() ?? [];
    const points = (events.length ? events : [event]).map((each) => [...this.stage.toWorld(each), pressureOf(each)]);
    if (stroke.held) return void stroke.held.push(...points);
    stroke.sender.touch(this.brush.move(points));
    this.lastPoint = points.at(-1);
  }

  up(event) {
    this.picking = false;
    const { stroke } = this;
    if (!stroke || stroke.id !== event.pointerId) return;
    stroke.ended = true;
    if (!stroke.held) this.endStroke(stroke);
  }

  endStroke(stroke) {
    stroke.sender.box = union(stroke.sender.box, this.brush.end());
    this.brush.finish();
    stroke.sender.end().then(() => this.sync(), (error) => this.say(error.message));
    if (this.stroke === stroke) this.stroke = null;
  }

  /** What the server knows after a stroke. */
  async sync() {
    this.paintPanel();
  }

  pick(x, y) {
    const spot = document.createElement("canvas");
    spot.width = spot.height = 1;
    const context = spot.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#808080";
    for (const canvas of this.stage.world.children) {
      context.globalAlpha = canvas === this.bottom ? 1 : Number(canvas.style.opacity);
      context.drawImage(canvas, -Math.floor(x), -Math.floor(y));
    }
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    if (a) this.setColour(`#${[r, g, b].map((value) => value.toString(16).padStart(2, "0")).join("")}`);
  }

  setColour(colour) {
    this.settings.colour = colour;
    this.colour.value = colour;
    if (this.placed?.about.kind === "text") this.retext({ colour });
  }

  // --- stickers and text ---

  async assetOf(buffer) {
    if (buffer.about.kind !== "image") return null;
    const { id } = buffer.about;
    if (!this.assets.has(id) && !buffer.about.asset) return null;
    if (!this.assets.has(id)) this.assets.set(id, await picture(address(["drafts", this.draft, "layers", String(id), "asset"])));
    return this.assets.get(id);
  }

  async showHandles() {
    const buffer = this.placed;
    const text = buffer?.about.kind === "text";
    this.brushOptions.hidden = text;
    this.textOptions.hidden = !text;
    if (!buffer || !this.here(buffer.about) || buffer.about.extra.x === undefined) return this.handles.hide();
    if (text && !this.placing) {
      const { extra } = buffer.about;
      if (this.words.value !== extra.text) this.words.value = extra.text;
      this.font.value = extra.font;
      this.textSize.set(extra.size);
      this.bold.setAttribute("aria-pressed", String(Boolean(extra.bold)));
      this.settings.colour = this.colour.value = extra.colour;
    }
    const asset = await this.assetOf(buffer).catch(() => null);
    if (this.placed === buffer) this.handles.show(buffer, asset);
  }

  beginPlacing(stroke) {
    if (this.placing) return;
    this.placing = this.sender(this.placed, this.placed.about.kind === "text" ? "text" : "place picture", stroke);
  }

  async redrawPlaced() {
    const buffer = this.placing?.buffer;
    if (!buffer || this.redrawing) return;
    this.redrawing = true;
    const asset = await this.assetOf(buffer).catch(() => null);
    await new Promise((done) => requestAnimationFrame(done));
    this.redrawing = false;
    if (this.placing?.buffer === buffer) this.placing.touch(draw(buffer, asset));
    this.handles.draw();
  }

  /** All that was placed is told to the server; the promise is that of what is under way already, if there is. */
  endPlacing() {
    const sender = this.placing;
    this.placing = null;
    if (sender) this.ending = this.finishPlacing(sender);
    return this.ending;
  }

  async finishPlacing(sender) {
    const { buffer } = sender;
    this.finishing = buffer;
    sender.box = union(sender.box, draw(buffer, await this.assetOf(buffer).catch(() => null)));
    await sender.end();
    this.finishing = null;
    // The place itself belongs to the same change as the pixels.
    await this.mutate("PATCH", ["layers", String(buffer.about.id)], { stroke: sender.stroke }, { extra: buffer.about.extra }).catch(() => {});
  }

  retext(changes) {
    const buffer = this.placed;
    if (buffer?.about.kind !== "text") return;
    this.beginPlacing();
    Object.assign(buffer.about.extra, changes);
    if ("bold" in changes) this.bold.setAttribute("aria-pressed", String(changes.bold));
    this.redrawPlaced();
    clearTimeout(this.textTimer);
    this.textTimer = setTimeout(() => this.endPlacing(), 500);
  }

  async addText(x, y) {
    const size = Math.round(Math.max(this.size[1] / 9, 12));
    const extra = { text: "Text", font: FONTS[0][0], size, colour: this.settings.colour, x, y, scale: 1, turn: 0 };
    try {
      const stroke = newStroke();
      const buffer = await this.addLayer({ kind: "text", name: "Text", extra }, stroke);
      this.choose("brush");
      this.active = buffer.about.id;
      await this.place_(stroke);
      this.words.focus();
      this.words.select();
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Draw a new sticker or text for the first time. */
  async place_(stroke) {
    await this.showHandles();
    this.beginPlacing(stroke);
    await this.endPlacing();
  }

  /** A picture to place, or a layered file. */
  async take(file) {
    if (/\.(ora|psd)$/i.test(file.name)) return this.importFile(file);
    try {
      const bitmap = await createImageBitmap(file).catch(() => {
        throw new Error(`'${file.name}' is not a picture that can be read; use PNG, JPEG or WebP.`);
      });
      const [width, height] = this.size;
      const scale = Math.min((0.5 * width) / bitmap.width, (0.5 * height) / bitmap.height, 1);
      const extra = { x: width / 2, y: height / 2, scale, turn: 0 };
      const stroke = newStroke();
      const buffer = await this.addLayer({ kind: "image", name: file.name.replace(/\.[^.]*$/, ""), extra }, stroke);
      const { id } = buffer.about;
      this.assets.set(id, bitmap);
      await this.outbox.push(() => ask(address(["drafts", this.draft, "layers", String(id), "asset"], { tab: TAB, stroke }), { method: "PUT", body: file }));
      this.active = id;
      await this.place_(stroke);
    } catch (error) {
      this.say(error.message);
    }
  }

  drop(event) {
    const files = [...event.dataTransfer.files];
    if (!files.length) return;
    event.preventDefault();
    files.forEach((file) => this.take(file));
  }

  async importFile(file) {
    const query = { tab: TAB, name: file.name, layer: this.target.layer, segment: this.target.segment, frame: this.target.frame };
    try {
      const state = await this.outbox.push(async () => (await ask(address(["drafts", this.draft, "import"], query), { method: "POST", body: file })).json());
      this.active = state.added.at(-1);
      await this.take_(state);
    } catch (error) {
      this.say(error.message);
      throw error;
    }
  }

  async exportAs(format) {
    await this.flush();
    const query = { format, layer: this.target.layer, segment: this.target.segment, frame: this.target.frame };
    try {
      const answer = await ask(address(["drafts", this.draft, "export"], query));
      const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? `drawing.${format}`;
      const link = h("a", { href: URL.createObjectURL(await answer.blob()), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } catch (error) {
      this.say(error.message);
    }
  }

  // --- saving ---

  async save(name, replace = false) {
    await this.flush();
    await this.outbox.push(() => send("POST", ["drafts", this.draft, "save"], {}, { name, replace }));
    tell(this, "canon-saved", { name });
  }

  async trySave(replace = false) {
    const name = this.saveName.value.trim();
    if (!name) return this.saveName.focus();
    try {
      const { edits } = await get(["edits"]);
      const sure = replace || this.confirming === name;
      if (!sure && edits.some((edit) => edit.name === name)) {
        this.confirm(name);
        return this.say(`There is an edit '${name}' already; choose another name, or replace it.`);
      }
      await this.save(name, sure);
      this.say(`Saved as '${name}'.`, "good");
      this.confirm(null);
    } catch (error) {
      if (/already/.test(error.message)) this.confirm(name);
      this.say(error.message);
    }
  }

  confirm(name) {
    this.confirming = name;
    this.saveButton.textContent = name ? "Replace" : "Save";
    if (name) this.saveName.addEventListener("input", () => this.confirm(null), { once: true });
  }

  // --- the preview ---

  changed() {
    this.wantPreview();
    tell(this, "canon-changed", { draft: this.draft, revision: this.state.revision, empty: this.empty });
  }

  wantPreview() {
    if (!this.draft) return;
    const frame = this.timeline.frame;
    const query = this.comparing
      ? { view: "source" }
      : { view: "edited", edits: this.edits.join(","), draft: this.draft, r: this.state.revision, s: this.stamp };
    const url = address(["fits", this.fit, "frames", String(frame)], { ...query, channel: `preview-${TAB}`, number: ++counter });
    this.live.want(url, { frame, began: performance.now(), comparing: this.comparing });
  }

  showPreview(bitmap, { frame, comparing }) {
    if (this.previewCanvas.width !== bitmap.width || this.previewCanvas.height !== bitmap.height) {
      this.previewCanvas.width = bitmap.width;
      this.previewCanvas.height = bitmap.height;
    }
    this.previewCanvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.previewTitle.textContent = comparing ? `Source, frame ${frame}` : `Frame ${frame}`;
    tell(this, "canon-preview", { frame, revision: this.state.revision });
  }

  compare(on) {
    this.comparing = on;
    this.before.setAttribute("aria-pressed", String(on));
    this.wantPreview();
  }

  showCursor([x, y]) {
    const painting = this.tool === "brush" || this.tool === "eraser";
    if (painting && !this.spaceHeld) this.cursor.show(x, y, this.settings.size / 2);
    else this.cursor.hide();
    this.stage.element.dataset.tool = this.spaceHeld ? "hand" : this.tool;
    this.mirrored(x, y);
  }

  /** The brush as it lies in the frame of the preview. */
  mirrored(x, y) {
    const frame = this.timeline.frame, { target } = this;
    if (target.frame === frame) return this.mirror.show(x, y, this.settings.size / 2);
    const names = target.layer ? [target.layer] : this.about.layers.map((layer) => layer.name);
    for (const name of names) {
      const there = this.maps.peek(this.fit, frame, name);
      const here = target.frame === null ? null : this.maps.peek(this.fit, target.frame, name);
      if (!there || (target.frame !== null && !here)) continue;
      if (target.frame === null && there.segment !== target.segment) break;
      const texel = target.frame === null ? [x - 0.5 + this.part.x, y - 0.5 + this.part.y] : here.toCanvas(x - 0.5, y - 0.5);
      const pixel = there.toFrame(...texel);
      if (!pixel) continue;
      let radius = (this.settings.size / 2) * there.pixelsPerTexel(...pixel);
      if (here) radius /= here.pixelsPerTexel(x - 0.5, y - 0.5);
      return this.mirror.show(pixel[0] + 0.5, pixel[1] + 0.5, radius);
    }
    this.mirror.hide();
  }

  hideCursor() {
    this.cursor.hide();
    this.mirror.hide();
  }

  fitAll() {
    this.stage.fit();
    this.preview.fit();
  }

  // --- keys, messages, connection ---

  choose(tool) {
    this.tool = tool;
    for (const button of this.toolButtons) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    this.stage.element.dataset.tool = tool;
    this.cursor.hide();
  }

  key(event) {
    const key = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y") && !isTyping(event)) {
      event.preventDefault();
      if (key === "y" || event.shiftKey) this.redo();
      else this.undo();
      return;
    }
    if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const tool = TOOLS.find(([, , letter]) => letter === key);
    if (tool) this.choose(tool[0]);
    else if (key === "[" || key === "]") {
      const size = this.settings.size;
      this.settings.size = Math.round(Math.min(Math.max(key === "]" ? Math.max(size * 1.2, size + 1) : Math.min(size / 1.2, size - 1), 1), 400));
      this.sizeSlider.set(this.settings.size);
    } else if (key === "0") this.fitAll();
    else if (key === "o" && !event.repeat) this.compare(true);
    else if (key === " " && event.composedPath()[0] === this.app) {
      this.spaceHeld = true;
      this.stage.element.dataset.tool = "hand";
      event.preventDefault();
    } else this.timeline.key(event);
  }

  keyUp(event) {
    if (event.key === " ") {
      this.spaceHeld = false;
      this.stage.element.dataset.tool = this.tool;
    } else if (event.key.toLowerCase() === "o" && !isTyping(event)) this.compare(false);
  }

  say(text, kind = "") {
    this.message.textContent = text;
    this.message.className = `message ${kind}`;
    this.message.hidden = !text;
    clearTimeout(this.quiet);
    if (text && kind !== "lasting") this.quiet = setTimeout(() => (this.message.hidden = true), kind === "good" ? 4000 : 9000);
  }

  connection(connected, sentence) {
    if (connected) this.say("The server is there again; everything is sent.", "good");
    else this.say(sentence, "lasting");
  }

  async alive() {
    if (!this.draft) return;
    if (!this.outbox.jobs.length) {
      this.outbox.push(() => send("POST", ["drafts", this.draft, "alive"], {}, { tab: TAB })).then(
        ({ held }) => held || this.say("This drawing is open in another tab now; what you paint here is not kept.", "lasting"),
        (error) => this.say(error.message, "lasting"),
      );
    }
  }

  /** The server was away: what it forgot of the drawing is told to it again. */
  async reconnect() {
    let state = null;
    try {
      state = await send("POST", ["drafts", this.draft, "open"], {}, { tab: TAB });
    } catch (error) {
      if (error.status === 0 || error.status >= 500) throw error;
      state = await send("POST", ["drafts"], {}, { fit: this.fit, edits: this.edits, tab: TAB });
    }
    if (state.id === this.draft && state.revision >= this.state.revision) return;
    const own = this.state.layers;
    for (const layer of own) {
      const buffer = this.buffers.get(layer.id);
      if (!buffer) continue;
      if (!state.layers.some((each) => each.id === layer.id)) {
        const answer = await send("POST", ["drafts", state.id, "layers"], { tab: TAB }, { target: layer.target, kind: layer.kind, name: layer.name, extra: layer.extra });
        this.buffers.delete(layer.id);
        if (this.active === layer.id) this.active = answer.layer.id;
        buffer.about = answer.layer;
        this.buffers.set(answer.layer.id, buffer);
      }
      const whole = { x: 0, y: 0, width: buffer.width, height: buffer.height };
      const png = await buffer.copy(whole)();
      await ask(address(["drafts", state.id, "layers", String(buffer.about.id), "patch"], { tab: TAB, x: 0, y: 0, label: "paint" }), { method: "POST", body: png });
    }
    const { id } = state;
    this.state = await get(["drafts", id]);
    remember(this.fit, id);
    await this.arrange();
    this.changed();
  }
}

function newStroke() {
  return `${TAB}-${++counter}`;
}

function percent(value) {
  return `${Math.round(100 * value)} %`;
}

function pressureOf(event) {
  return event.pointerType === "pen" && event.pressure > 0 ? 0.15 + 0.85 * event.pressure : 1;
}

function remember(fit, draft) {
  try {
    sessionStorage.setItem(`canon-draft:${fit}`, draft);
  } catch {
    // private windows may have no storage; the drawing is offered again instead
  }
}

function remembered(fit) {
  try {
    return sessionStorage.getItem(`canon-draft:${fit}`);
  } catch {
    return null;
  }
}
