/** <canon-painter>: paint on a canvas or a frame and see the video change; see canon.js. */
import { followTheme, h, iconButton, isTyping, styledRoot, tell } from "./dom.js";
import { Drawing, newStroke } from "./drawing.js";
import { LayersPanel } from "./layers.js";
import { Offer } from "./offer.js";
import { Placer } from "./placer.js";
import { Preview } from "./preview.js";
import { SavePanel, download } from "./saving.js";
import { TAB, get, send } from "./server.js";
import { Sheet } from "./sheet.js";
import { Strokes } from "./strokes.js";
import { TargetChoice } from "./targets.js";
import { Toolbox } from "./toolbox.js";

const ALIVE = 5000;
const REST = 120;

export class CanonPainter extends HTMLElement {
  constructor() {
    super();
    this.root = styledRoot(this);
    this.drawing = new Drawing({
      onpatch: () => {
        if (this.undoButton.disabled) this.paintPanel();
        this.changed();
      },
      onconnection: (connected, sentence) => (connected ? this.say("The server is there again; everything is sent.", "good") : this.say(sentence, "lasting")),
      onreconnect: () => this.reconnect(),
    });
    this.sheet = new Sheet(this.drawing);
    this.preview = new Preview(this.drawing, {
      onshown: (frame) => {
        this.targets.refill();
        this.followSoon();
        tell(this, "canon-preview", { frame, revision: this.state.revision });
      },
      say: (text) => this.say(text),
    });
    this.toolbox = new Toolbox({
      onchoose: () => this.showTool(),
      oncolour: (colour) => this.placer.retext({ colour }),
      onpicture: () => this.file.click(),
    });
    const addLayer = (more, stroke) => this.addLayer(more, stroke);
    const say = (text, kind) => this.say(text, kind);
    this.placer = new Placer(this.sheet, this.drawing, this.toolbox, { addLayer, say, change: (...change) => this.mutate(...change), typed: () => this.app.focus({ preventScroll: true }) });
    this.strokes = new Strokes(this.sheet, this.drawing, this.toolbox, {
      addLayer,
      say,
      addText: (x, y) => this.placer.addText(x, y),
      ended: () => this.paintPanel(),
      hover: (at) => (at ? this.preview.mirror(this.sheet, at, this.settings.size) : this.preview.brush.hide()),
    });
    this.stage.pans = (event) => event.button === 0 && this.toolbox.inHand === "hand";
    this.stage.onchange = () => {
      this.placer.handles.draw();
      this.strokes.cursor.draw();
    };
    this.layersPanel = new LayersPanel({
      choose: (layer) => this.activate(layer.id),
      change: (layer, changes, sliding, last) => this.changeLayer(layer, changes, sliding, last),
      remove: (layer) => this.mutate("DELETE", ["layers", layer.id]),
      move: (layer, by) => this.reorder(layer, by),
      moveTo: (id, other) => this.mutate("PATCH", ["layers", id], {}, { at: this.state.layers.findIndex((each) => each.id === other.id) }),
      add: () => this.addLayer().catch((error) => this.say(error.message)),
    });
    this.savePanel = new SavePanel({
      say,
      save: (name, replace) => this.save(name, replace),
      open: (edit) => this.open({ edit }),
      exportAs: (format) => this.exportAs(format),
      chooseFile: () => this.file.click(),
    });
    this.targets = new TargetChoice(this.drawing, this.timeline, (target, follows) => this.aim(target, follows).catch((error) => this.say(error.message)));
    this.offer = new Offer(this.drawing, (draft) => this.open({ fit: this.fit, draft }));
    this.build();
  }

  connectedCallback() {
    this.stopTheme = followTheme(this);
    this.beat = setInterval(() => this.alive(), ALIVE);
    this.onleave = () => this.drawing.leave();
    addEventListener("pagehide", this.onleave);
  }

  disconnectedCallback() {
    this.stopTheme?.();
    clearInterval(this.beat);
    removeEventListener("pagehide", this.onleave);
    this.timeline.pause();
  }

  build() {
    this.file = h("input", { type: "file", accept: ".png,.jpg,.jpeg,.webp,.ora,.psd,image/*", hidden: true, "aria-label": "File" });
    this.file.addEventListener("change", () => {
      [...this.file.files].forEach((file) => this.take(file));
      this.file.value = "";
    });
    this.undoButton = iconButton("undo", "Undo (Ctrl+Z)", () => this.undo(), { disabled: true });
    this.redoButton = iconButton("redo", "Redo (Ctrl+Shift+Z)", () => this.redo(), { disabled: true });
    this.message = h("div", { class: "message", role: "status", hidden: true });
    this.app = h(
      "div",
      { class: "app painter", tabindex: "0", role: "group", "aria-label": "Paint" },
      h(
        "div",
        { class: "bar" },
        this.targets.element,
        h("span", { class: "divider" }),
        this.toolbox.colour,
        this.toolbox.options,
        this.placer.options,
        h("span", { class: "grow" }),
        this.undoButton,
        this.redoButton,
        iconButton("fit", "Show everything (0)", () => this.fitAll()),
      ),
      h(
        "div",
        { class: "painter-body" },
        this.toolbox.element,
        this.stage.element,
        h("div", { class: "side" }, this.preview.element, this.layersPanel.element, this.savePanel.element),
      ),
      this.file,
      this.offer.element,
      this.message,
    );
    this.app.addEventListener("keydown", (event) => this.key(event));
    this.app.addEventListener("pointerdown", (event) => isTyping(event) || this.app.focus({ preventScroll: true }), true);
    this.app.addEventListener("keyup", (event) => this.keyUp(event));
    this.app.addEventListener("blur", () => this.toolbox.holdSpace(false));
    this.app.addEventListener("dragover", (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());
    this.app.addEventListener("drop", (event) => this.drop(event));
    this.app.addEventListener("paste", (event) => [...event.clipboardData.files].forEach((file) => this.take(file)));
    this.root.append(this.app);
  }

  // --- what the page around it may use ---

  get draft() {
    return this.drawing.id;
  }

  get fit() {
    return this.drawing.fit;
  }

  get edits() {
    return this.drawing.edits;
  }

  get empty() {
    return !this.drawing.layers.length;
  }

  get state() {
    return this.drawing.state;
  }

  get settings() {
    return this.toolbox.settings;
  }

  get stage() {
    return this.sheet.viewport;
  }

  get part() {
    return this.sheet.part;
  }

  get timeline() {
    return this.preview.timeline;
  }

  get previewCanvas() {
    return this.preview.canvas;
  }

  setColour(colour) {
    this.toolbox.setColour(colour);
  }

  /** One after the other. */
  open(options = {}) {
    const opening = (this.opening ?? Promise.resolve()).then(() => this.openNow(options));
    this.opening = opening.catch(() => {});
    return opening;
  }

  async openNow({ fit = null, layer = null, segment = 0, frame = null, onFrame = false, edits = null, draft = null, edit = null }) {
    try {
      if (edit) ({ id: draft, fit } = await send("POST", ["edits", edit, "open"], {}, { tab: TAB }));
      const name = fit || (await get(["fits"])).fits.at(-1)?.name;
      if (!name) throw new Error("This project has no fit yet.");
      const about = await get(["fits", name]);
      if (this.state) await this.flush();
      await this.drawing.open(about, draft, edits);
    } catch (error) {
      this.say(error.message);
      tell(this, "canon-error", { message: error.message });
      throw error;
    }
    this.say("");
    this.sheet.clear();
    const top = layer === null && !onFrame ? this.drawing.layers.at(-1) : null;
    this.preview.open(frame ?? top?.target.frame);
    if (onFrame) await this.aim({ frame: this.timeline.frame });
    else if (top) await this.aim(top.target);
    else await this.aim({ layer: layer ?? this.drawing.about.layers[0].name, segment: Number(segment) });
    if (edit) this.savePanel.show(edit);
    this.offer.show();
    this.changed();
    tell(this, "canon-opened", { fit: this.fit, draft: this.draft });
  }

  /** An empty drawing on the same fit. */
  async startAnew() {
    await this.flush();
    await this.drawing.startAnew();
    this.sheet.clear();
    await this.aim(this.sheet.target);
    this.changed();
  }

  async setEdits(edits) {
    this.drawing.state = await this.drawing.change("POST", ["stack"], {}, { edits });
    await this.sheet.loadBottom();
    this.changed();
  }

  /** Something changed on disk. */
  async refresh() {
    if (!this.draft) return;
    const stamp = Date.now();
    await this.sheet.loadBottom(stamp);
    this.preview.want(stamp);
  }

  /** Until the server has everything that was painted. */
  async flush() {
    await this.placer.end();
    await this.drawing.outbox.settled();
    await this.adopting?.catch(() => {});
  }

  async save(name, replace = false) {
    await this.flush();
    await this.drawing.change("POST", ["save"], {}, { name, replace });
    tell(this, "canon-saved", { name });
  }

  async importFile(file) {
    try {
      const state = await this.drawing.upload("POST", ["import"], { name: file.name, ...this.sheet.target }, file);
      this.sheet.active = state.added.at(-1);
      await this.adopt(state);
    } catch (error) {
      this.say(error.message);
      throw error;
    }
  }

  async exportAs(format) {
    await this.flush();
    await download(this.drawing, this.sheet.target, format).catch((error) => this.say(error.message));
  }

  undo() {
    return this.mutate("POST", ["undo"]).catch(() => {});
  }

  redo() {
    return this.mutate("POST", ["redo"]).catch(() => {});
  }

  // --- what is painted on ---

  /** `follows`: it is the frame that is shown, whichever that is. */
  async aim(target, follows = false) {
    this.placer.handles.hide();
    await this.sheet.aim(target);
    this.targets.show(this.sheet.target, follows);
    const { own, active } = this.sheet;
    this.activate(own.some((layer) => layer.id === active) ? active : this.another());
    this.preview.want();
  }

  /** Once no other frame is shown for a while: paint on that one, if that is what was asked for. */
  followSoon() {
    clearTimeout(this.following);
    const { targets, timeline, strokes } = this;
    if (!targets.follows || targets.target.frame === timeline.frame) return;
    this.following = setTimeout(() => {
      if (timeline.playing || strokes.stroke) this.followSoon();
      else if (targets.follows) this.aim(targets.frame, true).catch((error) => this.say(error.message));
    }, REST);
  }

  async activate(id) {
    this.sheet.choose(id);
    const layer = this.drawing.layer(id);
    if (layer && !this.sheet.here(layer)) return this.aim(layer.target);
    this.matchTool();
    this.paintPanel();
    await this.placer.show();
  }

  /** The layer to go on with where the chosen one is gone or elsewhere: one for the tool in hand. */
  another() {
    return (this.toolbox.paints ? this.sheet.forPaint : this.sheet.own.at(-1))?.id ?? null;
  }

  /** What is painted is painted, and what is placed is moved: the tool for what is chosen. */
  matchTool() {
    const { placed } = this.sheet;
    if (placed && this.toolbox.paints) this.toolbox.choose("move");
    else if (!placed && this.toolbox.tool === "move") this.toolbox.choose("brush");
  }

  // --- changes of layers ---

  /** Tell the server, and show what comes of it. */
  async mutate(method, parts, query = {}, value = undefined) {
    try {
      const state = await this.drawing.change(method, parts, query, value);
      this.adopting = this.adopt(state);
      await this.adopting;
      return state;
    } catch (error) {
      this.say(error.message);
      throw error;
    }
  }

  /** Show a new state of the drawing. */
  async adopt({ places, layer: _, added: __, ...state }) {
    this.drawing.state = state;
    if (places) {
      await this.sheet.reload(places);
      this.strokes.brush.forget();
    }
    this.sheet.choose(this.drawing.layer(this.sheet.active) ? this.sheet.active : this.another());
    await this.sheet.arrange();
    this.matchTool();
    this.targets.refill();
    this.paintPanel();
    await this.placer.show();
    this.changed();
  }

  async addLayer(more = {}, stroke = "") {
    const { layer } = await this.mutate("POST", ["layers"], { stroke }, { target: this.sheet.target, kind: "brush", ...more });
    this.sheet.choose(layer.id);
    this.matchTool();
    this.paintPanel();
    return this.sheet.buffers.get(layer.id);
  }

  changeLayer(layer, changes, sliding = false, last = false) {
    const own = this.drawing.layer(layer.id);
    if (!own) return;
    Object.assign(own, changes);
    const buffer = this.sheet.buffers.get(layer.id);
    if (buffer) {
      Object.assign(buffer.about, changes);
      buffer.show();
    }
    if (sliding) this.slide(own, last);
    else this.mutate("PATCH", ["layers", layer.id], {}, changes).catch(() => {});
  }

  /** Tell the server the opacity of a layer while it is moved: one change, however often. */
  slide(layer, last) {
    this.sliding ??= { stroke: newStroke(), waiting: false };
    const { sliding } = this;
    if (last) this.sliding = null;
    if (sliding.waiting && !last) return;
    sliding.waiting = true;
    const job = async () => {
      sliding.waiting = false;
      const { layer: _, ...state } = await this.drawing.tell("PATCH", ["layers", layer.id], { stroke: sliding.stroke }, { opacity: layer.opacity });
      this.drawing.state = state;
      if (last) this.paintPanel();
      this.changed();
    };
    this.drawing.outbox.push(job).catch((error) => this.say(error.message));
  }

  reorder(layer, by) {
    const at = this.state.layers.findIndex((each) => each.id === layer.id) + by;
    if (at >= 0 && at < this.state.layers.length) this.mutate("PATCH", ["layers", layer.id], {}, { at }).catch(() => {});
  }

  /** A picture to place, or a layered file. */
  take(file) {
    return /\.(ora|psd)$/i.test(file.name) ? this.importFile(file) : this.placer.addPicture(file);
  }

  drop(event) {
    const files = [...event.dataTransfer.files];
    if (!files.length) return;
    event.preventDefault();
    files.forEach((file) => this.take(file));
  }

  // --- what is shown of all that ---

  changed() {
    if (!this.empty) this.offer.hide();
    this.preview.want();
    tell(this, "canon-changed", { draft: this.draft, revision: this.state.revision, empty: this.empty });
  }

  paintPanel() {
    const { layers, undo, redo } = this.state;
    this.layersPanel.show(layers, this.sheet.active, this.sheet.target);
    this.undoButton.disabled = !undo;
    this.redoButton.disabled = !redo;
    this.undoButton.title = undo ? `Undo: ${undo} (Ctrl+Z)` : "Nothing to undo";
    this.redoButton.title = redo ? `Redo: ${redo} (Ctrl+Shift+Z)` : "Nothing to redo";
  }

  /** Another tool: it goes to a layer that it is for. */
  showTool() {
    this.stage.element.dataset.tool = this.toolbox.inHand;
    this.strokes.cursor.hide();
    if (!this.sheet.target) return;
    const { placed, forMoving } = this.sheet;
    if (placed && this.toolbox.paints) this.activate(this.another());
    else if (!placed && this.toolbox.tool === "move") {
      if (!forMoving) this.say("Place a picture or a text first; then it can be moved.");
      this.activate(forMoving?.id ?? this.sheet.active);
    }
  }

  fitAll() {
    this.stage.fit();
    this.preview.viewport.fit();
  }

  say(text, kind = "") {
    this.message.textContent = text;
    this.message.className = `message ${kind}`;
    this.message.hidden = !text;
    clearTimeout(this.quiet);
    if (text && kind !== "lasting") this.quiet = setTimeout(() => (this.message.hidden = true), kind === "good" ? 4000 : 9000);
  }

  key(event) {
    const key = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y") && !isTyping(event)) {
      event.preventDefault();
      if (key === "y" || event.shiftKey) this.redo();
      else this.undo();
      return;
    }
    if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey || this.toolbox.key(key)) return;
    if (key === "0") this.fitAll();
    else if (key === "o" && !event.repeat) this.preview.compare(true);
    else if (key === " " && event.composedPath()[0] === this.app) {
      this.toolbox.holdSpace(true);
      event.preventDefault();
    } else this.timeline.key(event);
  }

  keyUp(event) {
    if (event.key === " ") this.toolbox.holdSpace(false);
    else if (event.key.toLowerCase() === "o" && !isTyping(event)) this.preview.compare(false);
  }

  // --- the server comes and goes ---

  alive() {
    this.drawing.alive().then(
      (held) => held || this.say("This drawing is open in another tab now; what you paint here is not kept.", "lasting"),
      (error) => this.say(error.message, "lasting"),
    );
  }

  async reconnect() {
    const renamed = await this.drawing.tellAgain(this.sheet.buffers);
    if (!renamed) return;
    this.sheet.active = renamed.get(this.sheet.active) ?? this.sheet.active;
    await this.sheet.arrange();
    this.paintPanel();
    this.changed();
  }
}
