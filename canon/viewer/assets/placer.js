/** Placing stickers and texts: their handles, the words and font of a text, and telling the server where they lie. */
import { union } from "./buffers.js";
import { choice, h, slider } from "./dom.js";
import { newStroke } from "./drawing.js";
import { FONTS, Handles, draw } from "./placing.js";
import { address, picture } from "./server.js";

const PAUSE = 500;
const MOST_LINES = 4;

export class Placer {
  /**
   * `act`: {addLayer(more, stroke), change(method, parts, query, value): tells the server and shows what comes of it,
   * typed(): a text is finished, say(sentence)}.
   */
  constructor(sheet, drawing, toolbox, act) {
    Object.assign(this, { sheet, drawing, toolbox, act });
    this.assets = new Map();
    this.handles = new Handles(sheet.viewport, {
      onbegin: () => {
        clearTimeout(this.pause);
        this.begin();
      },
      onchange: () => this.redraw(),
      onend: () => this.end(),
    });
    this.words = h("textarea", { rows: 1, "aria-label": "Text", placeholder: "Text", title: "Enter ends the text, Shift+Enter begins a new line", spellcheck: "false" });
    this.words.addEventListener("input", () => {
      this.fitWords();
      this.retext({ text: this.words.value });
    });
    this.words.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.end();
      this.act.typed();
    });
    this.font = choice("Font", FONTS, FONTS[0][0], (font) => this.retext({ font }));
    this.size = slider("Size", { min: 8, max: 400, value: 64, curve: 2, format: (value) => `${value} px`, onvalue: (size) => this.retext({ size }) });
    this.bold = h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => this.retext({ bold: !this.sheet.placed?.about.extra.bold }) }, "Bold");
    this.options = h("div", { class: "options", hidden: true }, this.words, this.font, this.size, this.bold);
  }

  /** Handles and options for what is chosen. */
  async show() {
    const buffer = this.sheet.placed;
    const text = buffer?.about.kind === "text";
    this.options.hidden = !text;
    this.toolbox.options.hidden = text;
    if (!buffer || !this.sheet.here(buffer.about) || buffer.about.extra.x === undefined) return this.handles.hide();
    if (text && !this.placing) {
      const { extra } = buffer.about;
      if (this.words.value !== extra.text) this.words.value = extra.text;
      this.fitWords();
      this.font.value = extra.font;
      this.size.set(extra.size);
      this.bold.setAttribute("aria-pressed", String(Boolean(extra.bold)));
      this.toolbox.showColour(extra.colour);
    }
    const asset = await this.assetOf(buffer);
    if (this.sheet.placed === buffer) this.handles.show(buffer, asset);
  }

  /** The field shows all lines that were typed, up to some. */
  fitWords() {
    this.words.rows = Math.min(this.words.value.split("\n").length, MOST_LINES);
  }

  /** The picture of a sticker; null where there is none, or it cannot be had. */
  async assetOf(buffer) {
    const { id, kind, asset } = buffer.about;
    if (kind !== "image" || !(this.assets.has(id) || asset)) return null;
    try {
      if (!this.assets.has(id)) this.assets.set(id, await picture(address(this.drawing.parts("layers", id, "asset"))));
      return this.assets.get(id);
    } catch {
      return null;
    }
  }

  begin(stroke) {
    if (this.placing) return;
    const buffer = this.sheet.placed;
    buffer.moving = true;
    this.placing = this.drawing.sender(buffer, buffer.about.kind === "text" ? "text" : "place picture", stroke);
  }

  async redraw() {
    const buffer = this.placing?.buffer;
    if (!buffer || this.redrawing) return;
    this.redrawing = true;
    const asset = await this.assetOf(buffer);
    await new Promise((done) => requestAnimationFrame(done));
    this.redrawing = false;
    if (this.placing?.buffer === buffer) this.placing.touch(draw(buffer, asset));
    this.handles.draw();
  }

  /** All that was placed is told to the server; the promise is that of what is under way already, if there is. */
  end() {
    clearTimeout(this.pause);
    const sender = this.placing;
    this.placing = null;
    if (sender) this.ending = this.finish(sender);
    return this.ending;
  }

  async finish(sender) {
    const { buffer } = sender;
    sender.box = union(sender.box, draw(buffer, await this.assetOf(buffer)));
    await sender.end();
    buffer.moving = this.placing?.buffer === buffer;
    // The place itself belongs to the same change as the pixels.
    await this.act.change("PATCH", ["layers", buffer.about.id], { stroke: sender.stroke }, { extra: buffer.about.extra }).catch(() => {});
  }

  /** Other words, font, size or colour of the text that is chosen. */
  retext(changes) {
    const buffer = this.sheet.placed;
    if (buffer?.about.kind !== "text") return;
    this.begin();
    Object.assign(buffer.about.extra, changes);
    if ("bold" in changes) this.bold.setAttribute("aria-pressed", String(changes.bold));
    this.redraw();
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.end(), PAUSE);
  }

  async addText(x, y) {
    const size = Math.round(Math.max(this.sheet.size[1] / 9, 12));
    const extra = { text: "Text", font: FONTS[0][0], size, colour: this.toolbox.settings.colour, x, y, scale: 1, turn: 0 };
    try {
      const stroke = newStroke();
      await this.act.addLayer({ kind: "text", name: "Text", extra }, stroke);
      this.toolbox.choose("move");
      await this.drawFirst(stroke);
      this.words.focus();
      this.words.select();
    } catch (error) {
      this.act.say(error.message);
    }
  }

  /** A file that is a picture. */
  async addPicture(file) {
    try {
      const bitmap = await createImageBitmap(file).catch(() => {
        throw new Error(`'${file.name}' is not a picture that can be read; use PNG, JPEG or WebP.`);
      });
      const [width, height] = this.sheet.size;
      const scale = Math.min((0.5 * width) / bitmap.width, (0.5 * height) / bitmap.height, 1);
      const extra = { x: width / 2, y: height / 2, scale, turn: 0 };
      const stroke = newStroke();
      const buffer = await this.act.addLayer({ kind: "image", name: file.name.replace(/\.[^.]*$/, ""), extra }, stroke);
      const { id } = buffer.about;
      this.assets.set(id, bitmap);
      await this.drawing.upload("PUT", ["layers", id, "asset"], { stroke }, file);
      this.sheet.choose(id);
      await this.drawFirst(stroke);
    } catch (error) {
      this.act.say(error.message);
    }
  }

  /** Draw a new sticker or text for the first time. */
  async drawFirst(stroke) {
    await this.show();
    this.begin(stroke);
    await this.end();
  }
}
