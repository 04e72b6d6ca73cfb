// <canon-jobs>: what is being done and what was, with progress; cancel and dismiss.
import { ask, attempt, changed, h, openTab, when } from "/canon/assets/shell.js";

const SOON = 700;
const LATER = 3000;

/** Asks for the jobs again and again, as long as somebody wants to know; one for the whole page. */
class Feed extends EventTarget {
  constructor() {
    super();
    this.jobs = [];
    this.failure = null;
    this.listeners = 0;
    this.timer = null;
    document.addEventListener("visibilitychange", () => this.now());
    window.addEventListener("canon-jobs-changed", () => this.now());
  }

  join(listener) {
    this.addEventListener("jobs", listener);
    this.listeners += 1;
    this.now();
    return () => {
      this.removeEventListener("jobs", listener);
      this.listeners -= 1;
    };
  }

  get busy() {
    return this.jobs.some((job) => job.state === "queued" || job.state === "running");
  }

  async now() {
    clearTimeout(this.timer);
    this.timer = null;
    if (document.hidden || !this.listeners) return;
    const before = new Map(this.jobs.map((job) => [job.id, job.state]));
    try {
      this.jobs = await ask("/work/jobs");
      this.failure = null;
    } catch (error) {
      this.failure = error.message;
    }
    this.dispatchEvent(new Event("jobs"));
    if (this.jobs.some((job) => job.state === "done" && before.has(job.id) && before.get(job.id) !== "done")) changed();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.now(), this.busy ? SOON : LATER);
  }
}

export const feed = new Feed();

const STATES = { queued: "waiting", running: "running", done: "done", failed: "failed", cancelled: "cancelled" };

/** A job's progress bar, its words and its buttons. */
export function jobLine(job, ...more) {
  const share = Math.round(100 * job.done);
  const running = job.state === "running" || job.state === "queued";
  const words = job.state === "running" && job.stage ? `${job.stage}` : STATES[job.state];
  const parts = [
    h("div", { class: "canon-job-head" },
      h("strong", {}, job.title),
      h("span", { class: "canon-faint" }, job.state === "done" ? `${words} in ${job.seconds.toFixed(1)} s` : words),
      h("span", { class: "canon-grow" }),
      h("span", { class: "canon-faint" }, running && job.state === "running" ? `${share} %` : when(job.created)),
      ...more,
      running
        ? h("button", { onclick: () => act(`/work/jobs/${job.id}/cancel`, "POST") }, "Cancel")
        : h("button", { title: "Forget this", onclick: () => act(`/work/jobs/${job.id}`, "DELETE") }, "Dismiss"),
    ),
  ];
  if (running) {
    const bar = h("progress", { max: 100, "aria-label": job.title });
    if (job.state === "running") bar.value = share;
    parts.push(bar);
  }
  if (job.sentence) parts.push(h("p", { class: "canon-sentence failed" }, job.sentence));
  return h("div", { class: `canon-job ${job.state}`, "data-job": job.id, "data-state": job.state }, parts);
}

async function act(path, method) {
  await attempt(() => ask(path, method));
  feed.now();
}

class CanonJobs extends HTMLElement {
  connectedCallback() {
    this.leave = feed.join(() => this.show());
    this.classList.add("canon-jobs");
  }

  disconnectedCallback() {
    this.leave?.();
  }

  show() {
    const kind = this.getAttribute("of");
    const jobs = feed.jobs.filter((job) => !kind || job.function === kind);
    const text = JSON.stringify([jobs, feed.failure]);
    if (text === this.known) return;
    this.known = text;
    const lines = jobs.map((job) => {
      const waits = job.function === "edit" && job.state === "done" && job.variants;
      const choose = waits ? h("button", { class: "primary", onclick: () => openTab("Edit") }, `Choose from ${job.variants}`) : null;
      return jobLine(job, choose);
    });
    if (feed.failure) lines.unshift(h("p", { class: "canon-sentence failed", role: "alert" }, feed.failure));
    if (!lines.length && this.hasAttribute("empty")) lines.push(h("p", { class: "canon-faint" }, this.getAttribute("empty")));
    this.replaceChildren(...lines);
    this.hidden = !lines.length;
    this.parentElement?.toggleAttribute("data-empty", !lines.length);
  }
}

customElements.define("canon-jobs", CanonJobs);
