/** A layer of paint in the browser, and how its changes get to the server. */
import { h } from "./dom.js";
import { address, ask } from "./server.js";

/** A box of pixels {x, y, width, height}. */
export function union(a, b) {
  if (!a || !b) return a ?? b;
  const x = Math.min(a.x, b.x), y = Math.min(a.y, b.y);
  return { x, y, width: Math.max(a.x + a.width, b.x + b.width) - x, height: Math.max(a.y + a.height, b.y + b.height) - y };
}

/** A box within whole pixels of an image; null if nothing is left of it. */
export function clipped(box, width, height) {
  if (!box) return null;
  const x = Math.max(Math.floor(box.x), 0), y = Math.max(Math.floor(box.y), 0);
  const right = Math.min(Math.ceil(box.x + box.width), width), bottom = Math.min(Math.ceil(box.y + box.height), height);
  return right > x && bottom > y ? { x, y, width: right - x, height: bottom - y } : null;
}

export class LayerBuffer {
  /** `about`: the layer as the server describes it; its id is null until the server knows it. */
  constructor(about, width, height) {
    this.about = about;
    this.canvas = h("canvas", { class: "paint" });
    this.canvas.width = width;
    this.canvas.height = height;
    this.context = this.canvas.getContext("2d");
    this.empty = true;
    this.show();
  }

  get width() {
    return this.canvas.width;
  }

  get height() {
    return this.canvas.height;
  }

  show() {
    this.canvas.style.opacity = this.about.visible ? this.about.opacity : 0;
  }

  clear(box = null) {
    const { x, y, width, height } = box ?? { x: 0, y: 0, width: this.width, height: this.height };
    this.context.clearRect(x, y, width, height);
  }

  /** Take a part of it, or all, from the server. */
  async load(draft, box = null) {
    const answer = await ask(address(["drafts", draft, "layers", String(this.about.id), "pixels"], box ?? {}));
    const bitmap = await createImageBitmap(await answer.blob());
    this.clear(box);
    this.context.drawImage(bitmap, box?.x ?? 0, box?.y ?? 0);
    bitmap.close();
    this.empty = false;
  }

  /** The pixels of a box as they are now: a function that encodes them as PNG. */
  copy(box) {
    const part = document.createElement("canvas");
    part.width = box.width;
    part.height = box.height;
    part.getContext("2d", { willReadFrequently: true }).drawImage(this.canvas, -box.x, -box.y);
    let blob = null;
    return () => (blob ??= new Promise((resolve) => part.toBlob(resolve, "image/png")));
  }
}

/**
 * What one stroke changes, sent while it is made: at most one patch waits at any time, with all that changed until it
 * goes. `send(buffer, box, png)` sends a patch; `outbox` keeps the order.
 */
export class Sender {
  constructor(buffer, outbox, send) {
    Object.assign(this, { buffer, outbox, send });
    this.box = null;
    this.waiting = false;
    this.ended = false;
  }

  touch(box) {
    this.box = union(this.box, clipped(box, this.buffer.width, this.buffer.height));
    if (this.waiting || this.ended || !this.box) return;
    this.waiting = true;
    let box_ = null, copy = null;
    this.outbox
      .push(async () => {
        if (!copy) {
          this.waiting = false;
          if (this.ended || !this.box) return;
          [box_, this.box] = [this.box, null];
          copy = this.buffer.copy(box_);
        }
        await this.send(this.buffer, box_, await copy());
      })
      .catch(() => {});
  }

  /** Send the rest; what is painted afterwards is another change. */
  end() {
    this.ended = true;
    const box = this.box;
    this.box = null;
    if (!box) return this.outbox.settled();
    const copy = this.buffer.copy(box);
    return this.outbox.push(async () => this.send(this.buffer, box, await copy()));
  }
}
