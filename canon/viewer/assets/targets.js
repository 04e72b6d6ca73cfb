/** What can be painted on, to choose from: the canvases, the frame that is shown, and frames that are painted on. */
import { h } from "./dom.js";

export class TargetChoice {
  constructor(drawing, onchoose) {
    this.drawing = drawing;
    this.field = h("select", { "aria-label": "Paint on", class: "target" });
    this.field.addEventListener("change", () => onchoose(JSON.parse(this.field.value)));
    this.element = h("label", { class: "aim" }, "Paint on", this.field);
  }

  /** `target`: what is painted on; `shown`: number of the frame in the preview. */
  show(target, shown) {
    const { about, layers } = this.drawing;
    const options = about.layers.flatMap(({ name, segments }) =>
      segments.map((part, segment) => {
        const text = segments.length > 1 ? `${name}, segment ${segment} (frames ${part.first} to ${part.last})` : `${name} (canvas)`;
        return [{ layer: name, segment, frame: null }, text];
      }),
    );
    const frames = new Set([shown, target.frame, ...layers.map((layer) => layer.target.frame)]);
    frames.delete(null);
    for (const frame of [...frames].sort((a, b) => a - b)) options.push([{ layer: null, segment: 0, frame }, `frame ${frame}`]);
    this.field.replaceChildren(...options.map(([value, text]) => h("option", { value: JSON.stringify(value) }, text)));
    this.field.value = JSON.stringify({ ...target, layer: target.frame === null ? target.layer : null });
  }
}
