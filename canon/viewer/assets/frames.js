/** Pictures of frames, decoded and kept, and a timeline to move through them. */
import { h, iconButton, isTyping } from "./dom.js";
import { picture } from "./server.js";

/** Decoded pictures by address; a few are asked for at a time. */
export class FrameStore {
  constructor(most = 160, atOnce = 3) {
    this.most = most;
    this.atOnce = atOnce;
    this.kept = new Map();
    this.asked = new Map();
    this.seconds = 0.05;
  }

  clear() {
    for (const asked of this.asked.values()) asked.abort();
    this.kept.clear();
    this.asked.clear();
  }

  /** The picture if it is here. */
  peek(url) {
    const found = this.kept.get(url);
    if (found) {
      this.kept.delete(url);
      this.kept.set(url, found);
    }
    return found ?? null;
  }

  get room() {
    return this.atOnce - this.asked.size;
  }

  /** Ask for pictures unless they are here or asked for; all that is asked for and not among `wanted` is given up. */
  async want(urls, then, fail = () => {}) {
    for (const [url, controller] of this.asked) {
      if (!urls.includes(url)) {
        controller.abort();
        this.asked.delete(url);
      }
    }
    for (const url of urls) {
      if (this.room <= 0) break;
      if (this.kept.has(url) || this.asked.has(url)) continue;
      const controller = new AbortController();
      this.asked.set(url, controller);
      const began = performance.now();
      picture(url, { signal: controller.signal }).then(
        (bitmap) => {
          if (this.asked.get(url) === controller) this.asked.delete(url);
          if (!bitmap) return;
          this.seconds += 0.2 * ((performance.now() - began) / 1000 - this.seconds);
          this.kept.set(url, bitmap);
          while (this.kept.size > this.most) {
            const [oldest, old] = this.kept.entries().next().value;
            this.kept.delete(oldest);
            old.close();
          }
          then(url);
        },
        (error) => {
          if (this.asked.get(url) === controller) this.asked.delete(url);
          if (error.name !== "AbortError") fail(error);
        },
      );
    }
  }
}

/**
 * Play button, slider and number of the frame. `onframe(frame)` when it changes; while it plays, `ready(frame)` says
 * whether that frame can be shown: those that cannot in time are left out, so that it keeps its speed.
 */
export class Timeline {
  constructor({ onframe, ready = () => true, wish = () => {} }) {
    Object.assign(this, { onframe, ready, wish });
    this.count = 1;
    this.fps = 24;
    this.frame = 0;
    this.playing = false;
    this.shown = 0;
    this.button = iconButton("play", "Play (space)", () => this.toggle(), { "aria-pressed": "false" });
    this.range = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Frame", class: "scrubber" });
    this.range.addEventListener("input", () => {
      this.pause();
      this.go(Number(this.range.value));
    });
    this.number = h("input", { type: "number", min: 0, max: 0, value: 0, "aria-label": "Number of the frame", class: "frame-number" });
    this.number.addEventListener("change", () => this.go(Number(this.number.value)));
    this.total = h("span", { class: "quiet" }, "/ 0");
    this.element = h(
      "div",
      { class: "timeline", role: "group", "aria-label": "Timeline" },
      iconButton("previous", "One frame back (left arrow)", () => this.step(-1)),
      this.button,
      iconButton("next", "One frame on (right arrow)", () => this.step(1)),
      this.range,
      this.number,
      this.total,
    );
  }

  setCount(count, fps) {
    this.count = count;
    this.fps = fps;
    this.range.max = this.number.max = count - 1;
    this.total.textContent = `/ ${count - 1}`;
    this.show(Math.min(this.frame, count - 1));
  }

  show(frame) {
    this.frame = frame;
    this.range.value = frame;
    this.number.value = frame;
    this.range.setAttribute("aria-valuetext", `frame ${frame} of ${this.count - 1}`);
    this.range.style.setProperty("--done", `${(100 * frame) / Math.max(this.count - 1, 1)}%`);
  }

  go(frame) {
    const whole = Math.min(Math.max(Math.round(Number.isFinite(frame) ? frame : 0), 0), this.count - 1);
    const changed = whole !== this.frame;
    this.show(whole);
    if (changed) this.onframe(whole);
  }

  step(by) {
    this.pause();
    this.go((this.frame + by + this.count) % this.count);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.playing || this.count < 2) return;
    this.playing = true;
    this.paint();
    let last = performance.now(), at = this.frame;
    this.shown = 0;
    const tick = (now) => {
      if (!this.playing) return;
      const reached = at + Math.floor(((now - last) / 1000) * this.fps);
      for (let frame = reached; frame > at; frame--) {
        if (!this.ready(frame % this.count)) continue;
        last += ((frame - at) / this.fps) * 1000;
        at = frame % this.count;
        this.shown += 1;
        this.go(at);
        break;
      }
      // Where nothing can be had in time, time waits.
      last = Math.max(last, now - 500);
      this.wish(at);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.paint();
  }

  paint() {
    const fresh = iconButton(this.playing ? "pause" : "play", this.playing ? "Pause (space)" : "Play (space)", () => {});
    this.button.replaceChildren(...fresh.childNodes);
    this.button.title = fresh.title;
    this.button.setAttribute("aria-label", fresh.getAttribute("aria-label"));
    this.button.setAttribute("aria-pressed", String(this.playing));
  }

  /** Keys for the whole element; true if it was one of ours. */
  key(event) {
    if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return false;
    const inRange = event.composedPath()[0] === this.range;
    const step = { ArrowLeft: -1, ArrowRight: 1, ",": -1, ".": 1 }[event.key];
    if (event.key === " " && event.composedPath()[0].tagName !== "BUTTON") this.toggle();
    else if (step !== undefined && !(inRange && event.key.startsWith("Arrow"))) {
      if (event.composedPath()[0].type === "range") return false;
      this.step(event.shiftKey ? 10 * step : step);
    } else if (event.key === "Home") this.go(0);
    else if (event.key === "End") this.go(this.count - 1);
    else return false;
    event.preventDefault();
    return true;
  }
}
