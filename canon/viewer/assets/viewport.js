/** A pane in which a picture can be zoomed and moved. World coordinates are its pixels, (0, 0) its upper left corner. */
import { h } from "./dom.js";

const LARGEST = 40;

export class Viewport {
  /** `linked`: other viewports that follow (a list that all of them share). */
  constructor(label, linked = null) {
    this.world = h("div", { class: "world" });
    this.overlay = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.overlay.classList.add("overlay");
    this.overlay.setAttribute("aria-hidden", "true");
    this.element = h("div", { class: "viewport", role: "img", "aria-label": label }, this.world, this.overlay);
    this.size = [1, 1];
    this.scale = 1;
    this.shift = [0, 0];
    this.fitted = true;
    this.linked = linked;
    linked?.push(this);
    this.onchange = () => {};
    this.pans = () => false;
    this.pointers = new Map();
    this.observer = new ResizeObserver(() => (this.fitted ? this.fit() : this.place()));
    this.observer.observe(this.element);
    this.element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.element.addEventListener("pointerdown", (event) => this.down(event), true);
    this.element.addEventListener("pointermove", (event) => this.move(event), true);
    for (const name of ["pointerup", "pointercancel"]) this.element.addEventListener(name, (event) => this.up(event), true);
    this.element.addEventListener("dblclick", () => this.doubleFits !== false && this.fit());
  }

  setSize(width, height) {
    this.size = [width, height];
    this.world.style.width = `${width}px`;
    this.world.style.height = `${height}px`;
    if (this.fitted) this.fit();
    else this.place();
  }

  /** Show all of the picture. */
  fit() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    this.scale = Math.min(width / this.size[0], height / this.size[1]);
    if (this.linked) this.scale = Math.min(this.scale, LARGEST);
    this.shift = [(width - this.size[0] * this.scale) / 2, (height - this.size[1] * this.scale) / 2];
    this.fitted = true;
    this.place();
    this.share();
  }

  place() {
    this.world.style.transform = `translate(${this.shift[0]}px, ${this.shift[1]}px) scale(${this.scale})`;
    this.world.classList.toggle("coarse", this.scale * devicePixelRatio >= 3);
    this.onchange();
  }

  /** Let linked panes show the same part. */
  share() {
    for (const other of this.linked ?? []) {
      if (other === this || !other.element.isConnected || !other.element.clientWidth) continue;
      [other.scale, other.shift, other.fitted] = [this.scale, [...this.shift], this.fitted];
      if (this.fitted) {
        const { clientWidth: width, clientHeight: height } = other.element;
        other.scale = Math.min(width / other.size[0], height / other.size[1]);
        other.shift = [(width - other.size[0] * other.scale) / 2, (height - other.size[1] * other.scale) / 2];
      }
      other.place();
    }
  }

  zoomAt(x, y, factor) {
    const least = Math.min(this.element.clientWidth / this.size[0], this.element.clientHeight / this.size[1], 1) / 2;
    const scale = Math.min(Math.max(this.scale * factor, least), LARGEST);
    this.shift = [x - ((x - this.shift[0]) * scale) / this.scale, y - ((y - this.shift[1]) * scale) / this.scale];
    this.scale = scale;
    this.fitted = false;
    this.place();
    this.share();
  }

  moveBy(dx, dy) {
    this.shift = [this.shift[0] + dx, this.shift[1] + dy];
    this.fitted = false;
    this.place();
    this.share();
  }

  /** Pixels of the pane of an event. */
  local(event) {
    const box = this.element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** World coordinates of an event. */
  toWorld(event) {
    const [x, y] = this.local(event);
    return [(x - this.shift[0]) / this.scale, (y - this.shift[1]) / this.scale];
  }

  toScreen(x, y) {
    return [x * this.scale + this.shift[0], y * this.scale + this.shift[1]];
  }

  contains([x, y]) {
    return x >= 0 && y >= 0 && x < this.size[0] && y < this.size[1];
  }

  get moving() {
    return this.grab !== undefined || this.pointers.size > 1;
  }

  wheel(event) {
    event.preventDefault();
    const [x, y] = this.local(event);
    if (event.shiftKey && !event.ctrlKey) this.moveBy(-(event.deltaX || event.deltaY), 0);
    else this.zoomAt(x, y, Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : event.ctrlKey ? 0.01 : 0.0016)));
  }

  down(event) {
    this.pointers.set(event.pointerId, this.local(event));
    const pinching = event.pointerType === "touch" && this.pointers.size === 2;
    if (pinching || event.button === 1 || this.pans(event)) {
      this.grab = this.local(event);
      this.element.setPointerCapture(event.pointerId);
      this.element.classList.add("grabbing");
      event.preventDefault();
      if (!pinching) event.stopPropagation();
    }
  }

  move(event) {
    if (!this.pointers.has(event.pointerId)) return;
    const before = this.pointers.get(event.pointerId), now = this.local(event);
    this.pointers.set(event.pointerId, now);
    if (event.pointerType === "touch" && this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
      this.moveBy((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      this.zoomAt((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, apart(now) / apart(before));
      event.stopPropagation();
    } else if (this.grab !== undefined) {
      this.moveBy(now[0] - before[0], now[1] - before[1]);
      event.stopPropagation();
    }
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (this.grab !== undefined) {
      this.grab = undefined;
      this.element.classList.remove("grabbing");
      event.stopPropagation();
    }
  }
}

/** A ring with a dot at a place of the picture, which keeps its size on the screen unless `radius` is of the picture. */
export class Marker {
  constructor(viewport, name = "marker") {
    this.viewport = viewport;
    this.shape = document.createElementNS("http://www.w3.org/2000/svg", "g");
    this.shape.classList.add(name);
    this.rings = ["under", "over"].map((kind) => {
      const ring = document.createElementNS("http://www.w3.org/2000/svg", "ellipse");
      ring.classList.add(kind);
      this.shape.append(ring);
      return ring;
    });
    viewport.overlay.append(this.shape);
    this.hide();
  }

  show(x, y, radius = null, faint = false) {
    this.at = [x, y, radius, faint];
    this.draw();
  }

  hide() {
    this.at = null;
    this.shape.style.display = "none";
  }

  draw() {
    if (!this.at) return;
    const [x, y, radius, faint] = this.at;
    const [sx, sy] = this.viewport.toScreen(x, y);
    const size = radius === null ? 7 : Math.max(radius * this.viewport.scale, 2);
    for (const ring of this.rings) {
      ring.setAttribute("cx", sx);
      ring.setAttribute("cy", sy);
      ring.setAttribute("rx", size);
      ring.setAttribute("ry", size);
    }
    this.shape.style.display = "";
    this.shape.classList.toggle("faint", faint);
  }
}
