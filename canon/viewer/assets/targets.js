/** What can be painted on, to choose from: the canvases, the frame that is shown, and frames that are painted on. */
import { h } from "./dom.js";

const SHOWN = "shown";

export class TargetChoice {
  /** `onchoose(target, follows)`: with `follows`, what is painted on is whichever frame the preview shows. */
  constructor(drawing, timeline, onchoose) {
    Object.assign(this, { drawing, timeline });
    this.target = null;
    this.follows = false;
    this.field = h("select", { "aria-label": "Paint on", class: "target" });
    this.field.addEventListener("change", () => {
      const follows = this.field.value === SHOWN;
      onchoose(follows ? this.frame : JSON.parse(this.field.value), follows);
    });
    for (const name of ["pointerdown", "focus"]) this.field.addEventListener(name, () => this.refill());
    this.element = h("label", { class: "aim" }, "Paint on", this.field);
  }

  /** The frame that is shown, to be painted on. */
  get frame() {
    return { layer: null, segment: 0, frame: this.timeline.frame };
  }

  /** `target`: what is painted on from now on. */
  show(target, follows = false) {
    Object.assign(this, { target, follows });
    this.refill();
  }

  /** Another frame is shown, or painted on. */
  refill() {
    if (!this.target) return;
    const { about, layers } = this.drawing;
    const { target, follows } = this;
    const options = about.layers.flatMap(({ name, segments }) =>
      segments.map((part, segment) => {
        const text = segments.length > 1 ? `${name}, segment ${segment} (frames ${part.first} to ${part.last})` : `${name} (canvas)`;
        return [JSON.stringify({ layer: name, segment, frame: null }), text];
      }),
    );
    options.push([SHOWN, `frame shown (${this.timeline.frame})`]);
    const frames = new Set([follows ? null : target.frame, ...layers.map((layer) => layer.target.frame)]);
    frames.delete(null);
    for (const frame of [...frames].sort((a, b) => a - b)) options.push([JSON.stringify({ layer: null, segment: 0, frame }), `frame ${frame}`]);
    // An open list is left alone where it stays the same.
    if (String(options) !== this.filled) this.field.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
    this.filled = String(options);
    this.field.value = follows ? SHOWN : JSON.stringify({ ...target, layer: target.frame === null ? target.layer : null });
  }
}
