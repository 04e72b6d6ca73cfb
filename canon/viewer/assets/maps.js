/** Where the pixels of a frame lie on a layer's canvas, and back, without asking the server for every move. */
import { address, ask } from "./server.js";

/** Coordinates here have pixel and texel centres at integers, as everywhere in canon. */
export class FrameMap {
  constructor(values, rows, columns, stride, segment) {
    Object.assign(this, { values, rows, columns, stride, segment });
  }

  /** Position on the layer's whole canvas of a pixel. */
  toCanvas(x, y) {
    const column = Math.min(Math.max(Math.floor(x / this.stride), 0), Math.max(this.columns - 2, 0));
    const row = Math.min(Math.max(Math.floor(y / this.stride), 0), Math.max(this.rows - 2, 0));
    return this.inCell(row, column, x / this.stride - column, y / this.stride - row);
  }

  inCell(row, column, fx, fy) {
    const right = Math.min(column + 1, this.columns - 1), below = Math.min(row + 1, this.rows - 1);
    const at = (r, c, k) => this.values[2 * (r * this.columns + c) + k];
    const blend = (k) =>
      (at(row, column, k) * (1 - fx) + at(row, right, k) * fx) * (1 - fy) +
      (at(below, column, k) * (1 - fx) + at(below, right, k) * fx) * fy;
    return [blend(0), blend(1)];
  }

  /** Pixel of a position on the whole canvas: [x, y], or null if the frame has none. */
  toFrame(u, v) {
    let best = Infinity, node = 0;
    for (let k = 0; k < this.rows * this.columns; k++) {
      const du = this.values[2 * k] - u, dv = this.values[2 * k + 1] - v;
      const apart = du * du + dv * dv;
      if (apart < best) [best, node] = [apart, k];
    }
    let x = (node % this.columns) * this.stride, y = Math.floor(node / this.columns) * this.stride;
    for (let step = 0; step < 8; step++) {
      const [a, b] = this.toCanvas(x, y), [ax, bx] = this.toCanvas(x + 1, y), [ay, by] = this.toCanvas(x, y + 1);
      const [xx, xy, yx, yy] = [ax - a, ay - a, bx - b, by - b];
      const det = xx * yy - xy * yx;
      if (Math.abs(det) < 1e-9) return null;
      const dx = (yy * (u - a) - xy * (v - b)) / det, dy = (xx * (v - b) - yx * (u - a)) / det;
      const most = 4 * this.stride;
      x += Math.max(-most, Math.min(most, dx));
      y += Math.max(-most, Math.min(most, dy));
      if (Math.abs(dx) + Math.abs(dy) < 0.01) break;
    }
    const [a, b] = this.toCanvas(x, y);
    return Math.hypot(a - u, b - v) < 0.5 ? [x, y] : null;
  }

  /** Pixels along one texel about a pixel. */
  pixelsPerTexel(x, y) {
    const [a, b] = this.toCanvas(x, y), [ax, bx] = this.toCanvas(x + 1, y), [ay, by] = this.toCanvas(x, y + 1);
    return 1 / Math.sqrt(Math.max(Math.abs((ax - a) * (by - b) - (ay - a) * (bx - b)), 1e-6));
  }
}

/** The maps asked for last. */
export class MapStore {
  constructor(most = 60) {
    this.most = most;
    this.known = new Map();
  }

  clear() {
    this.known.clear();
  }

  /** The map of a frame if it is here; otherwise null, and it is asked for (`then` is called when it is). */
  peek(fit, t, layer, then = () => {}) {
    const key = `${t}|${layer}`;
    const entry = this.known.get(key);
    if (entry instanceof FrameMap) return entry;
    if (entry === undefined) {
      const asked = this.load(fit, t, layer).then(
        (map) => {
          this.known.set(key, map);
          then();
        },
        () => this.known.delete(key),
      );
      this.known.set(key, asked);
      while (this.known.size > this.most) this.known.delete(this.known.keys().next().value);
    }
    return null;
  }

  async load(fit, t, layer) {
    const answer = await ask(address(["fits", fit, "frames", t, "map"], { layer }));
    const number = (name) => Number(answer.headers.get(`X-Canon-${name}`));
    const values = new Float32Array(await answer.arrayBuffer());
    return new FrameMap(values, number("Rows"), number("Columns"), number("Stride"), number("Segment"));
  }
}
