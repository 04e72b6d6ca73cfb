/** The pointer on what is painted on: strokes of brush and eraser, colours picked, and the brush's outline. */
import { Brush } from "./brush.js";
import { union } from "./buffers.js";
import { newStroke } from "./drawing.js";
import { Marker } from "./viewport.js";

export class Strokes {
  /**
   * `act`: {addLayer(more, stroke): a layer to paint on where none is chosen, addText(x, y), ended(): a stroke is with
   * the server, hover([x, y] or null): where the pointer is, say(sentence)}.
   */
  constructor(sheet, drawing, toolbox, act) {
    Object.assign(this, { sheet, drawing, toolbox, act });
    this.brush = new Brush();
    this.cursor = new Marker(sheet.viewport, "cursor");
    const { element } = sheet.viewport;
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.up(event));
    element.addEventListener("pointercancel", (event) => this.up(event));
    element.addEventListener("pointerleave", () => this.leave());
    element.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  down(event) {
    const { viewport } = this.sheet;
    if (!this.drawing.about || event.button !== 0 || viewport.moving) return;
    const [x, y] = viewport.toWorld(event);
    if (this.toolbox.tool === "picker" || event.altKey) {
      viewport.element.setPointerCapture(event.pointerId);
      this.picking = true;
      return this.pick(x, y);
    }
    if (this.toolbox.tool === "text") return void this.act.addText(x, y);
    if (!this.toolbox.paints) return;
    event.preventDefault();
    viewport.element.setPointerCapture(event.pointerId);
    this.begin(event, x, y);
  }

  async begin(event, x, y) {
    const held = [[x, y, pressureOf(event)]];
    const from = event.shiftKey && this.lastPoint ? this.lastPoint : null;
    const stroke = { id: event.pointerId, held };
    this.stroke = stroke;
    let buffer = this.sheet.paintable;
    const group = newStroke();
    const { brush } = this.toolbox;
    if (!buffer) {
      if (brush.erase) {
        this.stroke = null;
        return this.act.say("Choose a layer of paint to erase on.");
      }
      try {
        buffer = await this.act.addLayer({}, group);
      } catch {
        if (this.stroke === stroke) this.stroke = null;
        return;
      }
    }
    stroke.sender = this.drawing.sender(buffer, brush.erase ? "erase" : "paint", group);
    const [start, ...more] = from ? [from, ...held] : held;
    stroke.sender.touch(this.brush.begin(buffer, brush, ...start));
    if (more.length) stroke.sender.touch(this.brush.move(more));
    stroke.held = null;
    if (stroke.ended) this.end(stroke);
  }

  move(event) {
    if (!this.drawing.about) return;
    const { viewport } = this.sheet;
    const at = viewport.toWorld(event);
    this.hover(at);
    if (this.picking) return this.pick(...at);
    const { stroke } = this;
    if (!stroke || stroke.id !== event.pointerId) return;
    const events = event.getCoalescedEvents?.() ?? [];
    const points = (events.length ? events : [event]).map((each) => [...viewport.toWorld(each), pressureOf(each)]);
    if (stroke.held) return void stroke.held.push(...points);
    stroke.sender.touch(this.brush.move(points));
    this.lastPoint = points.at(-1);
  }

  up(event) {
    this.picking = false;
    const { stroke } = this;
    if (!stroke || stroke.id !== event.pointerId) return;
    stroke.ended = true;
    if (!stroke.held) this.end(stroke);
  }

  end(stroke) {
    stroke.sender.box = union(stroke.sender.box, this.brush.end());
    this.brush.finish();
    stroke.sender.end().then(() => this.act.ended(), (error) => this.act.say(error.message));
    if (this.stroke === stroke) this.stroke = null;
  }

  pick(x, y) {
    const colour = this.sheet.colourAt(x, y);
    if (colour) this.toolbox.setColour(colour);
  }

  hover([x, y]) {
    if (this.toolbox.paints && !this.toolbox.spaceHeld) this.cursor.show(x, y, this.toolbox.settings.size / 2);
    else this.cursor.hide();
    this.act.hover([x, y]);
  }

  leave() {
    this.cursor.hide();
    this.act.hover(null);
  }
}

function pressureOf(event) {
  return event.pointerType === "pen" && event.pressure > 0 ? 0.15 + 0.85 * event.pressure : 1;
}
