/** Brush and eraser: stamps along a smoothed path, gathered in a buffer of their own so that a stroke has one opacity. */
import { clipped, union } from "./buffers.js";

const SPACING = 0.08;

export class Brush {
  constructor() {
    this.stroke = document.createElement("canvas");
    this.before = document.createElement("canvas");
    this.stamps = new Map();
  }

  /** `tool`: {size, hardness, opacity, colour, erase}. */
  begin(buffer, tool, x, y, pressure) {
    this.tool = tool;
    const { width, height } = buffer;
    if (this.buffer !== buffer || this.stroke.width !== width || this.stroke.height !== height) {
      for (const canvas of [this.stroke, this.before]) [canvas.width, canvas.height] = [width, height];
      this.stale = true;
    }
    this.buffer = buffer;
    const before = this.before.getContext("2d");
    if (this.stale) {
      before.clearRect(0, 0, width, height);
      before.drawImage(buffer.canvas, 0, 0);
    }
    this.stale = true;
    if (this.used) this.stroke.getContext("2d").clearRect(this.used.x, this.used.y, this.used.width, this.used.height);
    this.used = null;
    this.points = [[x, y, pressure]];
    this.left = 0;
    return this.lay([[x, y, pressure]]);
  }

  /** Further positions; returns the box that has changed. */
  move(positions) {
    const dabs = [];
    for (const point of positions) {
      this.points.push(point);
      const n = this.points.length;
      if (n === 2) dabs.push(...this.along(this.points[0], middle(this.points[0], point), middle(this.points[0], point)));
      else {
        const [a, b, c] = this.points.slice(-3);
        dabs.push(...this.along(middle(a, b), b, middle(b, c)));
      }
    }
    this.points = this.points.slice(-3);
    return this.lay(dabs);
  }

  end() {
    const n = this.points.length;
    const box = n > 1 ? this.lay(this.along(middle(this.points[n - 2], this.points[n - 1]), this.points[n - 1], this.points[n - 1])) : null;
    return box;
  }

  /** Stamps along the curve from a to c that is drawn towards b. */
  along(a, b, c) {
    const length = Math.hypot(b[0] - a[0], b[1] - a[1]) + Math.hypot(c[0] - b[0], c[1] - b[1]);
    const step = Math.max(this.tool.size * SPACING, 0.5);
    const found = [];
    if (length < 1e-6) return found;
    let at = step - this.left;
    for (; at <= length; at += step) {
      const t = at / length, s = 1 - t;
      found.push([0, 1, 2].map((k) => s * s * a[k] + 2 * s * t * b[k] + t * t * c[k]));
    }
    this.left = length - (at - step);
    return found;
  }

  lay(dabs) {
    if (!dabs.length) return null;
    const { tool, buffer } = this;
    const context = this.stroke.getContext("2d");
    let box = null;
    for (const [x, y, pressure] of dabs) {
      const size = Math.max(tool.size * pressure, 0.5);
      const half = Math.ceil(size / 2) + 2;
      if (tool.hardness >= 0.98) {
        context.globalAlpha = 1;
        context.fillStyle = tool.colour;
        context.beginPath();
        context.arc(x, y, size / 2, 0, 2 * Math.PI);
        context.fill();
      } else {
        const stamp = this.stamp(size);
        context.globalAlpha = 0.3 + 0.7 * tool.hardness;
        context.drawImage(stamp, x - stamp.width / 2, y - stamp.width / 2);
      }
      box = union(box, { x: x - half, y: y - half, width: 2 * half, height: 2 * half });
    }
    box = clipped(box, buffer.width, buffer.height);
    if (!box) return null;
    this.used = union(this.used, box);
    const part = [box.x, box.y, box.width, box.height];
    const shown = buffer.context;
    shown.clearRect(...part);
    shown.drawImage(this.before, ...part, ...part);
    shown.save();
    shown.globalAlpha = tool.opacity;
    shown.globalCompositeOperation = tool.erase ? "destination-out" : "source-over";
    shown.drawImage(this.stroke, ...part, ...part);
    shown.restore();
    buffer.empty = false;
    return box;
  }

  /** After the last change of a stroke: what it did is what the next one begins with. */
  finish() {
    if (!this.used) return;
    const part = [this.used.x, this.used.y, this.used.width, this.used.height];
    const before = this.before.getContext("2d");
    before.clearRect(...part);
    before.drawImage(this.buffer.canvas, ...part, ...part);
    this.stale = false;
  }

  /** The layer was changed by something else than this brush. */
  forget() {
    this.stale = true;
  }

  /** One soft dab, centred in a small canvas. */
  stamp(size) {
    const { colour, hardness } = this.tool;
    const rounded = Math.round(size * 4) / 4;
    const key = `${rounded}|${colour}|${hardness}`;
    if (this.stamps.has(key)) return this.stamps.get(key);
    const stamp = document.createElement("canvas");
    stamp.width = stamp.height = 2 * Math.ceil(rounded / 2 + 1);
    const context = stamp.getContext("2d"), centre = stamp.width / 2, radius = rounded / 2;
    const fade = context.createRadialGradient(centre, centre, 0, centre, centre, radius);
    for (let k = 0; k <= 16; k++) {
      const along = k / 16;
      const far = Math.max((along - hardness) / (1 - hardness), 0);
      const alpha = 1 - far * far * (3 - 2 * far);
      fade.addColorStop(along, colour + Math.round(255 * alpha).toString(16).padStart(2, "0"));
    }
    context.fillStyle = fade;
    context.beginPath();
    context.arc(centre, centre, radius, 0, 2 * Math.PI);
    context.fill();
    if (this.stamps.size > 200) this.stamps.clear();
    this.stamps.set(key, stamp);
    return stamp;
  }
}

function middle(a, b) {
  return [0, 1, 2].map((k) => (a[k] + b[k]) / 2);
}
