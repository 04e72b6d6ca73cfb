/** A frame of the video as it becomes, beside what is painted on: the newest state that can be had, and the brush in it. */
import { h } from "./dom.js";
import { Timeline } from "./frames.js";
import { MapStore } from "./maps.js";
import { Latest, ServerError, TAB, address } from "./server.js";
import { Marker, Viewport } from "./viewport.js";

let asked = 0;

export class Preview {
  /** `onshown(frame)`: another picture is shown; `say(sentence)`. */
  constructor(drawing, { onshown, say }) {
    Object.assign(this, { drawing, onshown });
    this.maps = new MapStore();
    this.viewport = new Viewport("Preview of a frame");
    this.canvas = h("canvas", { class: "picture" });
    this.viewport.world.append(this.canvas);
    this.brush = new Marker(this.viewport, "cursor");
    this.viewport.onchange = () => this.brush?.draw();
    this.live = new Latest((bitmap, tag) => this.show(bitmap, tag));
    this.live.failed = (error) => error instanceof ServerError && error.status > 0 && say(error.message);
    this.timeline = new Timeline({ onframe: () => this.want(), ready: () => !this.live.busy });
    this.before = h("button", { type: "button", class: "chip", "aria-pressed": "false", title: "Show the source (hold O)", onclick: () => this.compare(!this.comparing) }, "Before");
    this.title = h("strong", {}, "Preview");
    this.element = h(
      "section",
      { class: "panel preview-panel", "aria-label": "Preview" },
      h("div", { class: "panel-head" }, this.title, h("span", { class: "grow" }), this.before),
      this.viewport.element,
      this.timeline.element,
    );
  }

  /** Another fit. */
  open(frame) {
    const { about } = this.drawing;
    this.maps.clear();
    this.timeline.setCount(about.frames, about.fps);
    if (frame !== null && frame !== undefined) this.timeline.show(Math.min(Math.max(Number(frame), 0), about.frames - 1));
    this.viewport.setSize(about.width, about.height);
  }

  /** Ask for the frame as it is now. `stamp`: another value when something has changed on disk. */
  want(stamp = this.stamp) {
    this.stamp = stamp;
    const { drawing, comparing } = this;
    if (!drawing.id) return;
    const { frame } = this.timeline;
    const query = comparing ? { view: "source" } : { view: "edited", edits: drawing.edits.join(","), draft: drawing.id, r: drawing.state.revision, s: stamp };
    const url = address(["fits", drawing.fit, "frames", String(frame)], { ...query, channel: `preview-${TAB}`, number: ++asked });
    this.live.want(url, { frame, comparing });
  }

  show(bitmap, { frame, comparing }) {
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.title.textContent = comparing ? `Source, frame ${frame}` : `Frame ${frame}`;
    this.onshown(frame);
  }

  compare(on) {
    this.comparing = on;
    this.before.setAttribute("aria-pressed", String(on));
    this.want();
  }

  /** The brush as it lies in the frame, from where it is on what is painted on. */
  mirror(sheet, [x, y], size) {
    const { drawing, maps } = this;
    const { frame } = this.timeline, { target, part } = sheet;
    if (target.frame === frame) return this.brush.show(x, y, size / 2);
    const names = target.layer ? [target.layer] : drawing.about.layers.map((layer) => layer.name);
    for (const name of names) {
      const there = maps.peek(drawing.fit, frame, name);
      const here = target.frame === null ? null : maps.peek(drawing.fit, target.frame, name);
      if (!there || (target.frame !== null && !here)) continue;
      if (target.frame === null && there.segment !== target.segment) break;
      const texel = target.frame === null ? [x - 0.5 + part.x, y - 0.5 + part.y] : here.toCanvas(x - 0.5, y - 0.5);
      const pixel = there.toFrame(...texel);
      if (!pixel) continue;
      let radius = (size / 2) * there.pixelsPerTexel(...pixel);
      if (here) radius /= here.pixelsPerTexel(x - 0.5, y - 0.5);
      return this.brush.show(pixel[0] + 0.5, pixel[1] + 0.5, radius);
    }
    this.brush.hide();
  }
}
