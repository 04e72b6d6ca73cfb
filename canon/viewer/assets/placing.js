/** Stickers and texts: drawn into their layer where their handles say, and moved, scaled and turned by these. */
import { clipped, union } from "./buffers.js";

const SVG = "http://www.w3.org/2000/svg";
const HANDLE = 6, ARM = 26;

export const FONTS = [
  ["system-ui, sans-serif", "Sans"],
  ["Georgia, 'Times New Roman', serif", "Serif"],
  ["ui-monospace, monospace", "Mono"],
  ["Impact, 'Arial Narrow', sans-serif-condensed, sans-serif", "Narrow"],
  ["'Comic Sans MS', 'Comic Neue', cursive", "Hand"],
];

/** {x, y: middle in the layer, scale, turn: radians} and the size of what is placed before that. */
export function extent(extra, asset) {
  if (!extra.text && extra.text !== "") return asset ? [asset.width, asset.height] : [1, 1];
  const context = document.createElement("canvas").getContext("2d");
  context.font = fontOf(extra);
  const lines = linesOf(extra);
  return [Math.max(...lines.map((line) => context.measureText(line).width), 4), lines.length * extra.size * 1.25];
}

function linesOf(extra) {
  return (extra.text || " ").split("\n");
}

function fontOf(extra) {
  return `${extra.italic ? "italic " : ""}${extra.bold ? "bold " : ""}${extra.size}px ${extra.font}`;
}

/** Corners of what is placed, in the layer. */
export function corners(extra, [width, height]) {
  const cos = Math.cos(extra.turn) * extra.scale, sin = Math.sin(extra.turn) * extra.scale;
  return [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([i, j]) => {
    const x = (i * width) / 2, y = (j * height) / 2;
    return [extra.x + x * cos - y * sin, extra.y + x * sin + y * cos];
  });
}

/** Draw a sticker or text into its buffer; returns the box that has changed. */
export function draw(buffer, asset) {
  const { extra } = buffer.about;
  const size = extent(extra, asset);
  const places = corners(extra, size);
  const xs = places.map(([x]) => x), ys = places.map(([, y]) => y);
  const room = 3 + (extra.text !== undefined ? extra.size * extra.scale * 0.3 : 0);
  const [left, top] = [Math.min(...xs) - room, Math.min(...ys) - room];
  const box = { x: left, y: top, width: Math.max(...xs) + room - left, height: Math.max(...ys) + room - top };
  const old = buffer.drawn ?? (buffer.empty ? null : { x: 0, y: 0, width: buffer.width, height: buffer.height });
  const dirty = clipped(union(old, box), buffer.width, buffer.height);
  if (old) buffer.clear(old);
  const { context } = buffer;
  context.save();
  context.translate(extra.x, extra.y);
  context.rotate(extra.turn);
  context.scale(extra.scale, extra.scale);
  context.imageSmoothingQuality = "high";
  if (extra.text !== undefined) {
    context.font = fontOf(extra);
    context.fillStyle = extra.colour;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const lines = linesOf(extra);
    lines.forEach((line, k) => context.fillText(line, 0, (k - (lines.length - 1) / 2) * extra.size * 1.25));
  } else if (asset) context.drawImage(asset, -size[0] / 2, -size[1] / 2);
  context.restore();
  buffer.drawn = box;
  buffer.empty = false;
  return dirty;
}

/** The frame with handles around what is placed; `onchange(extra)` while it is moved, `onend()` after. */
export class Handles {
  constructor(viewport, { onchange, onbegin, onend }) {
    Object.assign(this, { viewport, onchange, onbegin, onend });
    this.group = document.createElementNS(SVG, "g");
    this.group.classList.add("handles");
    this.outline = this.make("polygon", "outline", "move");
    this.arm = this.make("line", "arm", null);
    this.turner = this.make("circle", "handle turn", "turn");
    this.scalers = [0, 1, 2, 3].map(() => this.make("rect", "handle scale", "scale"));
    viewport.overlay.append(this.group);
    this.hide();
  }

  make(name, kind, action) {
    const shape = document.createElementNS(SVG, name);
    shape.setAttribute("class", kind);
    if (action) shape.addEventListener("pointerdown", (event) => this.grab(event, action));
    this.group.append(shape);
    return shape;
  }

  show(buffer, asset) {
    Object.assign(this, { buffer, asset });
    this.group.style.display = "";
    this.draw();
  }

  hide() {
    this.buffer = null;
    this.group.style.display = "none";
  }

  draw() {
    if (!this.buffer) return;
    const places = corners(this.buffer.about.extra, extent(this.buffer.about.extra, this.asset)).map(([x, y]) => this.viewport.toScreen(x, y));
    this.outline.setAttribute("points", places.map((place) => place.join(",")).join(" "));
    this.scalers.forEach((shape, k) => {
      shape.setAttribute("x", places[k][0] - HANDLE);
      shape.setAttribute("y", places[k][1] - HANDLE);
      shape.setAttribute("width", 2 * HANDLE);
      shape.setAttribute("height", 2 * HANDLE);
    });
    const top = [(places[0][0] + places[1][0]) / 2, (places[0][1] + places[1][1]) / 2];
    const turn = this.buffer.about.extra.turn;
    const end = [top[0] + Math.sin(turn) * ARM, top[1] - Math.cos(turn) * ARM];
    for (const [key, value] of Object.entries({ x1: top[0], y1: top[1], x2: end[0], y2: end[1] })) this.arm.setAttribute(key, value);
    this.turner.setAttribute("cx", end[0]);
    this.turner.setAttribute("cy", end[1]);
    this.turner.setAttribute("r", HANDLE);
  }

  grab(event, action) {
    if (event.button !== 0 || !this.buffer) return;
    event.preventDefault();
    event.stopPropagation();
    const shape = event.currentTarget, { extra } = this.buffer.about;
    const begin = { ...extra }, from = this.viewport.toWorld(event);
    const arm = (point) => [point[0] - begin.x, point[1] - begin.y];
    shape.setPointerCapture(event.pointerId);
    this.onbegin();
    const move = (moved) => {
      const at = this.viewport.toWorld(moved), [ax, ay] = arm(from), [bx, by] = arm(at);
      if (action === "move") Object.assign(extra, { x: begin.x + at[0] - from[0], y: begin.y + at[1] - from[1] });
      else if (action === "scale") extra.scale = Math.min(Math.max((begin.scale * Math.hypot(bx, by)) / (Math.hypot(ax, ay) || 1), 0.01), 100);
      else {
        const turn = begin.turn + Math.atan2(by, bx) - Math.atan2(ay, ax);
        extra.turn = moved.shiftKey ? Math.round(turn / (Math.PI / 12)) * (Math.PI / 12) : turn;
      }
      this.draw();
      this.onchange();
    };
    const end = () => {
      shape.removeEventListener("pointermove", move);
      for (const name of ["pointerup", "pointercancel"]) shape.removeEventListener(name, end);
      this.onend();
    };
    shape.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) shape.addEventListener(name, end);
  }
}
