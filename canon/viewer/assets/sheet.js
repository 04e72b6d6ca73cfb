/** What is painted on: a canvas or a frame at the bottom, and above it the layers of paint that lie there. */
import { LayerBuffer } from "./buffers.js";
import { h } from "./dom.js";
import { place } from "./layers.js";
import { address, picture } from "./server.js";
import { Viewport } from "./viewport.js";

export class Sheet {
  constructor(drawing) {
    this.drawing = drawing;
    this.target = null;
    this.buffers = new Map();
    this.active = null;
    this.painted = null;
    this.viewport = new Viewport("What you paint on");
    this.viewport.doubleFits = false;
    this.viewport.element.classList.add("stage", "checkered");
    this.bottom = h("canvas", { class: "picture" });
    this.viewport.world.append(this.bottom);
  }

  clear() {
    this.buffers.clear();
    this.choose(null);
    this.painted = null;
  }

  /** Let a layer be the chosen one; null for none. */
  choose(id) {
    const layer = this.drawing.layer(id);
    this.active = layer?.id ?? null;
    if (layer?.kind === "brush") this.painted = layer.id;
  }

  /** The segment of the canvas that is painted on. */
  get part() {
    return this.drawing.about?.layers.find((layer) => layer.name === this.target?.layer)?.segments[this.target.segment];
  }

  /** Width and height. */
  get size() {
    const { width, height } = this.target.frame === null ? this.part : this.drawing.about;
    return [width, height];
  }

  /** Whether a layer of paint lies on what is painted on. */
  here(layer) {
    return place(layer.target) === place(this.target);
  }

  /** Its layers of paint, from the bottom to the top. */
  get own() {
    return this.drawing.layers.filter((layer) => this.here(layer));
  }

  /** The sticker or text that is chosen. */
  get placed() {
    const buffer = this.buffers.get(this.active);
    return buffer && buffer.about.kind !== "brush" ? buffer : null;
  }

  /** The layer that a brush paints on, if one is chosen that is here and seen. */
  get paintable() {
    const buffer = this.buffers.get(this.active);
    return buffer && buffer.about.kind === "brush" && buffer.about.visible && this.here(buffer.about) ? buffer : null;
  }

  /** The layer to paint on where another kind was chosen: the one that was painted on last, if it is here and seen. */
  get forPaint() {
    const own = this.own.filter((layer) => layer.kind === "brush" && layer.visible);
    return own.find((layer) => layer.id === this.painted) ?? own.at(-1) ?? null;
  }

  /** The sticker or text that lies on top. */
  get forMoving() {
    return this.own.findLast((layer) => layer.kind !== "brush") ?? null;
  }

  async aim(target) {
    const before = this.target;
    this.target = { layer: target.layer ?? null, segment: target.segment ?? 0, frame: target.frame ?? null };
    if (this.target.frame === null && !this.part) throw new Error(`There is no canvas of '${place(this.target)}' in this fit.`);
    this.viewport.setSize(...this.size);
    // From frame to frame, the part that is looked at stays.
    if (before?.frame === null || this.target.frame === null) this.viewport.fit();
    await this.loadBottom();
    await this.arrange();
  }

  /** `stamp`: another value when something has changed on disk. */
  async loadBottom(stamp = this.stamp) {
    this.stamp = stamp;
    const { target, drawing } = this;
    const query = { edits: drawing.edits.join(","), s: stamp };
    const url =
      target.frame === null
        ? address(["fits", drawing.fit, "canvases", target.layer], { ...query, segment: target.segment })
        : address(["fits", drawing.fit, "frames", String(target.frame)], { ...query, view: "edited", format: "png" });
    const bitmap = await picture(url);
    if (!bitmap || target !== this.target) return;
    this.bottom.width = bitmap.width;
    this.bottom.height = bitmap.height;
    this.bottom.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
  }

  /** Show the layers in order; what is new is taken from the server. */
  async arrange() {
    for (const id of [...this.buffers.keys()]) {
      if (this.drawing.layer(id)) continue;
      this.buffers.get(id).canvas.remove();
      this.buffers.delete(id);
    }
    const loads = [];
    for (const layer of this.drawing.layers) {
      let buffer = this.buffers.get(layer.id);
      if (buffer) {
        const extra = buffer.moving ? buffer.about.extra : layer.extra;
        buffer.about = { ...layer, extra };
        buffer.show();
      } else if (this.here(layer)) {
        buffer = new LayerBuffer(layer, layer.size[1], layer.size[0]);
        this.buffers.set(layer.id, buffer);
        loads.push(buffer.load(this.drawing.id));
      }
    }
    await Promise.all(loads);
    const shown = this.own.filter((layer) => this.buffers.has(layer.id)).map((layer) => this.buffers.get(layer.id).canvas);
    const { world } = this.viewport;
    const now = [...world.children].slice(1);
    if (shown.length !== now.length || shown.some((canvas, k) => canvas !== now[k])) world.replaceChildren(this.bottom, ...shown);
  }

  /** Take parts of layers from the server again, where something else than painting has changed them. */
  async reload(places) {
    for (const { layer, ...box } of places) {
      const buffer = this.buffers.get(layer);
      if (!buffer || !this.drawing.layer(layer)) continue;
      await buffer.load(this.drawing.id, box);
      buffer.drawn = null;
    }
  }

  /** The colour that is seen at a position, "#rrggbb"; null where there is none. */
  colourAt(x, y) {
    const spot = h("canvas", { width: 1, height: 1 });
    const context = spot.getContext("2d", { willReadFrequently: true });
    for (const canvas of this.viewport.world.children) {
      context.globalAlpha = canvas === this.bottom ? 1 : Number(canvas.style.opacity);
      context.drawImage(canvas, -Math.floor(x), -Math.floor(y));
    }
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return a ? `#${[r, g, b].map((value) => value.toString(16).padStart(2, "0")).join("")}` : null;
  }
}
