/** The tab's drawing as the server keeps it: opened, changed in order, and told again to a server that was away. */
import { Sender } from "./buffers.js";
import { Outbox, ServerError, TAB, address, ask, get, send } from "./server.js";

let strokes = 0;

/** Changes that are sent with the same stroke are undone together. */
export function newStroke() {
  return `${TAB}-${++strokes}`;
}

export class Drawing {
  /** `onpatch()`: pixels were sent; `onconnection(connected, sentence)`; `onreconnect()`: before anything is sent again. */
  constructor({ onpatch, onconnection, onreconnect }) {
    this.about = null;
    this.state = null;
    this.onpatch = onpatch;
    this.outbox = new Outbox(onconnection);
    this.outbox.onReconnect = onreconnect;
  }

  get id() {
    return this.state?.id ?? null;
  }

  get fit() {
    return this.state?.fit ?? null;
  }

  get edits() {
    return this.state?.edits ?? [];
  }

  get layers() {
    return this.state?.layers ?? [];
  }

  layer(id) {
    return this.layers.find((layer) => layer.id === id);
  }

  parts(...more) {
    return ["drafts", this.id, ...more.map(String)];
  }

  // --- opening ---

  /** `about`: the fit as the server describes it; without `draft`, the tab's own drawing on it, or a new one. */
  async open(about, draft, edits) {
    if (!this.state || this.fit !== about.name || (draft && draft !== this.id)) {
      this.release();
      this.state = await this.own(about.name, draft, edits ?? []);
    }
    this.about = about;
    if (edits && String(edits) !== String(this.edits)) this.state = await send("POST", this.parts("stack"), { tab: TAB }, { edits });
    remember(this.fit, this.id);
  }

  /** The drawing that was asked for, that of this tab before it was loaded again, or a new one. */
  async own(fit, draft, edits) {
    const before = draft ?? remembered(fit);
    if (before) {
      try {
        const state = await send("POST", ["drafts", before, "open"], {}, { tab: TAB });
        if (state.fit === fit) return state;
      } catch (error) {
        if (draft || !(error instanceof ServerError) || error.status === 0) throw error;
      }
    }
    return send("POST", ["drafts"], {}, { fit, edits, tab: TAB });
  }

  /** An empty drawing on the same fit. */
  async startAnew() {
    const { fit, edits } = this;
    this.release();
    this.state = await send("POST", ["drafts"], {}, { fit, edits, tab: TAB });
    remember(fit, this.id);
  }

  release() {
    if (this.id) send("POST", this.parts("release"), {}, { tab: TAB }).catch(() => {});
  }

  /** The page is left. */
  leave() {
    if (this.id) navigator.sendBeacon(address(this.parts("release")), JSON.stringify({ tab: TAB }));
  }

  /** Drawings on this fit that were left, the newest first. */
  async left() {
    const { drafts } = await get(["drafts"]);
    return drafts.filter((each) => each.fit === this.fit && each.id !== this.id && !each.open);
  }

  // --- changing ---

  /** Tell the server after all that was told before; its answer is the drawing's state and what belongs to the change. */
  change(method, parts, query = {}, value = undefined) {
    return this.outbox.push(() => this.tell(method, parts, query, value));
  }

  /** As `change`, out of turn. */
  tell(method, parts, query = {}, value = undefined) {
    return send(method, this.parts(...parts), { tab: TAB, ...query }, value);
  }

  /** As `change`, with a file. */
  upload(method, parts, query, file) {
    return this.outbox.push(async () => (await ask(address(this.parts(...parts), { tab: TAB, ...query }), { method, body: file })).json());
  }

  /** What sends the pixels of a buffer that change under one label. */
  sender(buffer, label, stroke = newStroke()) {
    const sender = new Sender(buffer, this.outbox, (own, box, png) => this.patch(own, box, png, stroke, label));
    sender.stroke = stroke;
    return sender;
  }

  async patch(buffer, box, png, stroke, label) {
    const { revision } = await this.post(this.id, buffer, { x: box.x, y: box.y, stroke, label }, png);
    Object.assign(this.state, { revision, undo: label, redo: null });
    this.onpatch();
  }

  async post(id, buffer, query, png) {
    const url = address(["drafts", id, "layers", String(buffer.about.id), "patch"], { tab: TAB, ...query });
    return (await ask(url, { method: "POST", body: png, headers: { "Content-Type": "image/png" } })).json();
  }

  // --- the server comes and goes ---

  /** Tell the server that this tab is there; whether the drawing is still its own. */
  async alive() {
    if (!this.id || this.outbox.jobs.length) return true;
    return (await this.change("POST", ["alive"], {}, { tab: TAB })).held;
  }

  /**
   * The server was away: what it forgot of the layers in `buffers` is told to it again. Returns the numbers that layers
   * have now by those that they had, null if it has forgotten nothing.
   */
  async tellAgain(buffers) {
    let state = null;
    try {
      state = await send("POST", this.parts("open"), {}, { tab: TAB });
    } catch (error) {
      if (error.status === 0 || error.status >= 500) throw error;
      state = await send("POST", ["drafts"], {}, { fit: this.fit, edits: this.edits, tab: TAB });
    }
    if (state.id === this.id && state.revision >= this.state.revision) return null;
    const renamed = new Map();
    for (const layer of this.layers) {
      const buffer = buffers.get(layer.id);
      if (!buffer) continue;
      if (!state.layers.some((each) => each.id === layer.id)) {
        const answer = await send("POST", ["drafts", state.id, "layers"], { tab: TAB }, { target: layer.target, kind: layer.kind, name: layer.name, extra: layer.extra });
        buffers.delete(layer.id);
        renamed.set(layer.id, answer.layer.id);
        buffer.about = answer.layer;
        buffers.set(answer.layer.id, buffer);
      }
      const png = await buffer.copy({ x: 0, y: 0, width: buffer.width, height: buffer.height })();
      await this.post(state.id, buffer, { x: 0, y: 0, label: "paint" }, png);
    }
    this.state = await get(["drafts", state.id]);
    remember(this.fit, this.id);
    return renamed;
  }
}

function remember(fit, draft) {
  try {
    sessionStorage.setItem(`canon-draft:${fit}`, draft);
  } catch {
    // private windows may have no storage; the drawing is offered again instead
  }
}

function remembered(fit) {
  try {
    return sessionStorage.getItem(`canon-draft:${fit}`);
  } catch {
    return null;
  }
}
