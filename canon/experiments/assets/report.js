"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

// --- videos in step ---

const SEEK_MS = 1500; // a browser that loses a seek must not stop everything
const ICONS = { play: "M3 1.5v13L14 8z", pause: "M3 2h4v12H3zM9 2h4v12H9z" };

class Player {
  constructor(section) {
    this.section = section;
    this.frames = Number(section.dataset.frames);
    this.fps = Number(section.dataset.fps);
    this.scrub = one(".scrub", section);
    this.frame = Number(this.scrub.value);
    this.speed = 1;
    this.playing = false;
    this.near = false;
    this.seeking = null;
    this.wanted = null;
    this.round = 0; // of playing: what waits for an earlier one gives up
    one(".play", section).onclick = () => this.toggle();
    one(".back", section).onclick = () => this.step(-1);
    one(".forth", section).onclick = () => this.step(1);
    this.scrub.oninput = () => { this.pause(); this.show(Number(this.scrub.value)); };
    one(".speed", section).onchange = (event) => { this.speed = Number(event.target.value); this.pace(); };
    one(".columns", section).onchange = () => this.arrange();
    new ResizeObserver(() => this.arrange()).observe(one(".edits", section));
    for (const screen of all("button.screen", section)) screen.onclick = () => enlarge(this, screen.closest(".cell"));
  }

  get videos() { return all(".cell:not([hidden]) video", this.section); }

  /** As many columns as were asked for; else as many as fit, a multiple of the number of representations. */
  arrange() {
    const edits = one(".edits", this.section);
    const least = parseFloat(getComputedStyle(edits).getPropertyValue("--least")) || 235;
    const fitting = Math.max(1, Math.floor((edits.clientWidth + 12) / (least + 12)));
    const kinds = Number(edits.dataset.kinds);
    const automatic = fitting > kinds ? fitting - (fitting % kinds) : fitting;
    const count = Number(one(".columns", this.section).value) || automatic;
    edits.style.gridTemplateColumns = `repeat(${count}, minmax(0, 1fr))`;
  }

  /** Videos are decoded only while their section is near the screen. */
  attend(near) {
    this.near = near;
    if (!near) this.pause();
    for (const cell of all(".cell", this.section)) {
      const wanted = near && !cell.hidden && (cell.dataset.video || cell.dataset.src);
      if (wanted && !one("video", cell)) attach(cell);
      if (!wanted) detach(cell);
    }
    if (near) this.show(this.frame);
  }

  refresh() { if (this.near) { this.pause(); this.attend(true); } }

  time(frame) { return (frame + 0.5) / this.fps; }

  tell(frame) {
    this.frame = frame;
    this.scrub.value = frame;
    one(".at", this.section).value = `${frame + 1} / ${this.frames}`;
  }

  /** Show a frame in all videos; of many asked for quickly, the last one. */
  async show(frame) {
    this.tell(Math.min(Math.max(frame, 0), this.frames - 1));
    this.wanted = this.frame;
    if (this.seeking) return this.seeking;
    this.seeking = (async () => {
      while (this.wanted !== null) {
        const time = this.time(this.wanted);
        this.wanted = null;
        await Promise.all(this.videos.map((video) => seek(video, time)));
      }
    })();
    await this.seeking;
    this.seeking = null;
  }

  step(by) { this.pause(); this.show((this.frame + by + this.frames) % this.frames); }

  toggle() { if (this.playing) this.pause(); else this.play(); }

  pace() { for (const video of this.videos) video.playbackRate = this.speed; }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.round += 1;
    for (const video of this.videos) video.pause();
    this.button("play");
    this.show(this.frame);
  }

  button(kind) {
    const button = one(".play", this.section);
    one("path", button).setAttribute("d", ICONS[kind]);
    button.setAttribute("aria-label", kind === "play" ? "Play" : "Pause");
  }

  async play() {
    for (const other of players) if (other !== this) other.pause();
    if (!this.near) this.attend(true);
    current = this;
    this.playing = true;
    this.button("pause");
    await this.begin(this.frame >= this.frames - 1 ? 0 : this.frame);
  }

  /** Play from a frame: all videos stand there before any of them starts. */
  async begin(frame) {
    const round = ++this.round;
    for (const video of this.videos) video.pause();
    await this.show(frame);
    await Promise.all(this.videos.map(ready));
    if (round !== this.round || !this.playing) return;
    this.pace();
    await Promise.allSettled(this.videos.map((video) => video.play()));
    const tick = () => {
      if (round !== this.round || !this.playing) return;
      this.follow();
      if (round === this.round) requestAnimationFrame(tick);
    };
    tick();
  }

  /** The first video leads; one that drifts goes a little slower or faster, one that is far off jumps. */
  follow() {
    const [lead, ...others] = this.videos;
    if (!lead) { this.pause(); return; }
    const time = lead.currentTime;
    if (lead.ended || time >= this.frames / this.fps - 0.02) {
      if (one(".loop", this.section).checked) { this.begin(0); return; }
      this.frame = this.frames - 1;
      this.pause();
      return;
    }
    for (const video of others) {
      const drift = video.currentTime - time;
      let rate = this.speed;
      if (Math.abs(drift) > 0.3) video.currentTime = time;
      else if (Math.abs(drift) > 0.25 / this.fps) rate *= 1 - Math.max(-0.3, Math.min(0.3, 4 * drift));
      if (Math.abs(video.playbackRate - rate) > 0.01) video.playbackRate = rate;
      if (video.paused && !video.ended) video.play().catch(() => {});
    }
    this.tell(Math.min(Math.floor(time * this.fps), this.frames - 1));
  }
}

function seek(video, time) {
  if (Math.abs(video.currentTime - time) < 1e-4 && !video.seeking) return ready(video);
  return new Promise((done) => {
    video.addEventListener("seeked", done, { once: true });
    video.addEventListener("error", done, { once: true });
    setTimeout(done, SEEK_MS);
    video.currentTime = time;
  });
}

function ready(video) {
  if (video.readyState >= 2 || video.error) return Promise.resolve();
  return new Promise((done) => {
    for (const name of ["loadeddata", "canplay", "error"]) video.addEventListener(name, done, { once: true });
    setTimeout(done, SEEK_MS);
  });
}

function attach(cell) {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  video.preload = "auto";
  video.tabIndex = -1;
  video.disableRemotePlayback = true;
  video.onerror = () => {
    video.remove();
    const screen = one(".screen", cell);
    screen.title = `This video cannot be played${cell.dataset.src ? `: ${cell.dataset.src} is not there` : ""}.`;
  };
  if (cell.dataset.video) {
    const text = atob(document.getElementById(cell.dataset.video).textContent);
    const bytes = new Uint8Array(text.length);
    for (let k = 0; k < text.length; k += 1) bytes[k] = text.charCodeAt(k);
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  } else video.src = cell.dataset.src;
  one(".screen", cell).append(video);
}

function detach(cell) {
  const video = one("video", cell);
  if (!video) return;
  const address = video.src;
  video.onerror = null;
  video.removeAttribute("src");
  video.load();
  video.remove();
  if (address.startsWith("blob:")) URL.revokeObjectURL(address);
}

const players = all("section.grid").map((section) => new Player(section));
let current = players[0] || null;

const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const player = players.find((other) => other.section === entry.target);
    if (player && player.near !== entry.isIntersecting) player.attend(entry.isIntersecting);
  }
}, { rootMargin: "300px 0px" });
for (const player of players) {
  watch.observe(player.section);
  player.section.addEventListener("pointerenter", () => { if (!current || !current.playing) current = player; });
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea, summary");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !current) return;
  if (event.key === " " && !event.target.closest("nav button, .bar button, thead button, .zoom")) {
    event.preventDefault();
    current.toggle();
  } else if (event.key === ",") current.step(-1);
  else if (event.key === ".") current.step(1);
});

// --- enlarging ---

const dialog = one("dialog");
dialog.addEventListener("close", () => { dialog.firstChild.replaceChildren(); });

function opened(caption, ...buttons) {
  const head = document.createElement("div");
  head.className = "head";
  const text = document.createElement("p");
  text.append(...[...caption.childNodes].map((node) => node.cloneNode(true)));
  const close = pushed("Close", () => dialog.close());
  head.append(text, ...buttons, close);
  const stage = document.createElement("div");
  stage.className = "stage";
  dialog.firstChild.replaceChildren(head, stage);
  dialog.showModal();
  close.focus();
  return stage;
}

function pushed(title, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = title;
  button.onclick = act;
  return button;
}

/** A cell's video as large as the window, the source to the left of the pointer: drawn from the videos in the grid. */
function enlarge(player, cell) {
  current = player;
  const source = one(".cell.source", player.section);
  const play = pushed("Play / pause", () => player.toggle());
  const stage = opened(one("figcaption", cell), pushed("‹ Frame", () => player.step(-1)), play, pushed("Frame ›", () => player.step(1)));
  const canvas = document.createElement("canvas");
  stage.append(canvas);
  const [width, height] = getComputedStyle(one(".cells", player.section)).getPropertyValue("--aspect").split("/").map(Number);
  let wipe = cell === source || !source ? 0 : 0.5;
  canvas.onpointermove = (event) => {
    if (cell === source || !source) return;
    const [x, , w] = placed(canvas.clientWidth, canvas.clientHeight, width, height);
    wipe = Math.min(Math.max((event.offsetX - x) / w, 0), 1);
  };
  const draw = () => {
    if (!canvas.isConnected) return;
    const scale = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    paint(canvas.getContext("2d"), placed(w, h, width, height), cell, source, wipe, scale);
    requestAnimationFrame(draw);
  };
  draw();
}

function placed(w, h, width, height) {
  const factor = Math.min(w / width, h / height);
  return [(w - width * factor) / 2, (h - height * factor) / 2, width * factor, height * factor];
}

function paint(context, [x, y, w, h], cell, source, wipe, scale) {
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  const picture = (of) => one("video", of) || one(".poster", of);
  context.drawImage(picture(cell), x, y, w, h);
  if (wipe <= 0) return;
  context.save();
  context.beginPath();
  context.rect(x, y, w * wipe, h);
  context.clip();
  const before = picture(source);
  if (before) context.drawImage(before, x, y, w, h);
  context.restore();
  context.fillStyle = "#ffffff";
  context.fillRect(x + w * wipe - scale / 2, y, scale, h);
  context.font = `${13 * scale}px system-ui, sans-serif`;
  context.shadowColor = "#000000";
  context.shadowBlur = 4 * scale;
  context.textBaseline = "bottom";
  context.textAlign = "right";
  if (wipe > 0.08) context.fillText("source", x + w * wipe - 8 * scale, y + h - 8 * scale);
  context.textAlign = "left";
  if (wipe < 0.92) context.fillText("edit", x + w * wipe + 8 * scale, y + h - 8 * scale);
  context.shadowBlur = 0;
}

for (const button of all(".zoom")) {
  button.onclick = () => {
    const image = one("img", button).cloneNode();
    image.className = "board";
    image.loading = "eager";
    opened(one("figcaption", button.closest("figure"))).append(image);
  };
}

// --- tables ---

function value(row, column) {
  const text = row.cells[column].dataset.v;
  if (text === undefined || text === "") return null;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sort(head) {
  const table = head.closest("table");
  const column = head.cellIndex;
  const before = head.getAttribute("aria-sort");
  // The best comes first; so does the least, where no way is better.
  const first = head.dataset.better === "1" ? "descending" : "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const direction = before === first ? second : first;
  for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
    const keyed = rows.map((row) => [value(row, column), row]);
    // What has no value comes last, whichever way.
    keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    body.append(...keyed.map(([, row]) => row));
  }
}

for (const head of all("thead th")) one("button", head).onclick = () => sort(head);
for (const button of all("button.more")) {
  button.onclick = () => {
    const shown = button.closest(".results").classList.toggle("all");
    button.setAttribute("aria-pressed", shown);
  };
}

// --- the filter ---

const box = one("#filter");
function filter() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (item) => words.every((word) => item.dataset.text.includes(word));
  const items = all("[data-text]");
  // What is of a fit alone stays while any edit of it matches.
  const fits = new Set(items.filter(matches).map((item) => item.dataset.fit));
  const shown = (item) => matches(item) || ("alone" in item.dataset && fits.has(item.dataset.fit));
  for (const item of items) item.toggleAttribute("hidden", !shown(item));
  for (const holder of all("tbody, .results, section.clip, figure.chart, section.part:not(#provenance)")) {
    const inside = all("[data-text]", holder);
    holder.hidden = inside.length > 0 && inside.every((item) => item.hasAttribute("hidden"));
  }
  const rows = all("tr[data-text]");
  const count = rows.filter(matches).length;
  one("#found").textContent = words.length ? `${count} of ${rows.length}` : "";
  one("#nothing").hidden = !words.length || count > 0;
  for (const player of players) player.refresh();
}
let typed = 0;
box.oninput = () => { clearTimeout(typed); typed = setTimeout(filter, 120); };

// --- printing ---

// What was not scrolled to is not loaded yet.
addEventListener("beforeprint", () => { for (const image of all("img[loading=lazy]")) image.loading = "eager"; });

// --- light and dark ---

one("#theme").onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
};
