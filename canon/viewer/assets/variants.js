// <canon-variants>: edits that are being made or wait to be chosen from, with a before/after view of each.
import { ask, attempt, changed, h, say } from "/canon/assets/shell.js";
import { feed, jobLine } from "/canon/assets/jobs.js";

/** Shows the newest picture asked for; those that were overtaken are not waited for. */
function follower(image) {
  let wanted = null;
  let loading = false;
  const next = () => {
    if (loading || wanted === null) return;
    const url = wanted;
    wanted = null;
    loading = true;
    const fresh = new Image();
    fresh.onload = fresh.onerror = () => {
      image.src = url;
      loading = false;
      next();
    };
    fresh.src = url;
  };
  return (url) => {
    wanted = url;
    next();
  };
}

/** One job's variants: thumbnails, the chosen one before and after at any frame, and a name to save it under. */
class Choice {
  constructor(job) {
    this.id = job.id;
    this.editor = job.editor;
    this.count = 0;
    this.chosen = 1;
    this.element = h("div", { class: "canon-choice" });
  }

  async update(job) {
    if (job.variants === this.count && this.state === job.state) return;
    const first = this.count === 0 && job.variants > 0;
    this.count = job.variants;
    this.state = job.state;
    if (first) {
      this.about = await ask(`/work/jobs/${this.id}/about`);
      this.t = Math.floor(this.about.frames / 2);
    }
    if (this.about) this.draw();
  }

  url(variant, width) {
    return `/work/jobs/${this.id}/variants/${variant}/${this.t}.jpg?width=${width}`;
  }

  draw() {
    const typed = this.name?.value;
    this.thumbs = Array.from({ length: this.count }, (_, k) => {
      const image = h("img", { alt: `Variant ${k + 1}`, src: this.url(k + 1, 320) });
      return h("button", { class: "canon-variant", "aria-pressed": String(k + 1 === this.chosen), "data-variant": k + 1, onclick: () => this.choose(k + 1) },
        image, h("span", {}, this.count > 1 ? `${k + 1}` : "result"));
    });
    this.before = h("img", { alt: "Before", class: "canon-before", draggable: "false" });
    this.after = h("img", { alt: "After", class: "canon-after", draggable: "false" });
    this.handle = h("div", { class: "canon-handle" });
    this.split = h("input", { type: "range", class: "canon-split", min: 0, max: 100, value: 50, "aria-label": "Before and after", oninput: () => this.place() });
    this.stage = h("div", { class: "canon-compare", style: `aspect-ratio:${this.about.width}/${this.about.height}` },
      this.before, this.after, this.handle, h("span", { class: "canon-tag left" }, "before"), h("span", { class: "canon-tag right" }, "after"), this.split);
    this.label = h("output", {});
    this.scrubber = h("input", { type: "range", min: 0, max: this.about.frames - 1, value: this.t, "aria-label": "Frame",
      oninput: () => this.scrub(), onchange: () => this.refreshThumbs() });
    this.name = h("input", { type: "text", value: typed ?? this.editor, "aria-label": "Name of the edit", maxlength: 120, spellcheck: "false" });
    this.name.addEventListener("keydown", (event) => event.key === "Enter" && this.save(false));
    this.refusal = h("p", { class: "canon-sentence failed", role: "alert", hidden: true });
    this.replace = h("button", { class: "danger", hidden: true, onclick: () => this.save(true) }, "Replace it");
    this.name.addEventListener("input", () => this.refuse(""));
    const ended = this.state === "done";
    this.saving = h("div", { class: "canon-save" },
      h("label", {}, "Save as ", this.name),
      h("button", { class: "primary", onclick: () => this.save(false), disabled: !ended, title: ended ? null : "Wait until all are made" }, "Save"),
      this.replace);
    this.element.replaceChildren(
      h("div", { class: "canon-variants", role: "group", "aria-label": "Variants", hidden: this.count < 2 }, this.thumbs),
      this.stage,
      h("div", { class: "canon-scrub" }, this.scrubber, this.label),
      this.saving, this.refusal);
    this.showBefore = follower(this.before);
    this.showAfter = follower(this.after);
    this.place();
    this.scrub();
  }

  choose(k) {
    this.chosen = k;
    for (const thumb of this.thumbs) thumb.setAttribute("aria-pressed", String(Number(thumb.dataset.variant) === k));
    this.scrub();
  }

  place() {
    this.after.style.clipPath = `inset(0 0 0 ${this.split.value}%)`;
    this.handle.style.left = `${this.split.value}%`;
  }

  scrub() {
    this.t = Number(this.scrubber.value);
    this.label.textContent = `frame ${this.t} of ${this.about.frames - 1}`;
    const width = Math.min(this.about.width, 1280);
    this.showBefore(this.url(0, width));
    this.showAfter(this.url(this.chosen, width));
  }

  refreshThumbs() {
    if (this.count > 1) this.thumbs.forEach((thumb, k) => { thumb.querySelector("img").src = this.url(k + 1, 320); });
  }

  refuse(sentence, exists = false) {
    this.refusal.textContent = sentence;
    this.refusal.hidden = !sentence;
    this.replace.hidden = !exists;
  }

  async save(replace) {
    const name = this.name.value.trim();
    if (!name) return this.refuse("Give the edit a name.");
    try {
      const taken = !replace && (await ask("/work/project")).edits.some((edit) => edit.name === name);
      if (taken) return this.refuse(`There is an edit “${name}” already; choose another name, or replace it.`, true);
      await ask(`/work/jobs/${this.id}/save`, "POST", { variant: this.chosen, name, replace });
    } catch (error) {
      return this.refuse(error.message, error.status === 409);
    }
    say(`“${name}” is saved.`);
    document.dispatchEvent(new CustomEvent("canon-saved", { detail: { name } }));
    changed();
    feed.now();
  }
}

class CanonVariants extends HTMLElement {
  connectedCallback() {
    this.choices ??= new Map();
    this.leave = feed.join(() => this.show());
  }

  disconnectedCallback() {
    this.leave?.();
  }

  show() {
    const jobs = feed.jobs.filter((job) => job.function === "edit");
    const text = JSON.stringify([jobs, feed.failure]);
    if (text === this.known) return;
    this.known = text;
    const kept = new Map([...this.children].filter((one) => one.dataset.job).map((one) => [one.dataset.job, one]));
    const lines = jobs.map((job, k) => this.line(job, kept.get(job.id), k === 0));
    if (feed.failure) lines.unshift(h("p", { class: "canon-sentence failed", role: "alert" }, feed.failure));
    if (!lines.length) lines.push(h("p", { class: "canon-faint canon-empty" }, "What you make appears here, to compare with the source and to keep or throw away."));
    this.sync(lines);
  }

  /** What is unchanged stays where it is, so that a name being typed is not lost. */
  sync(lines) {
    for (const child of [...this.children]) if (!lines.includes(child)) child.remove();
    lines.forEach((line, k) => { if (this.children[k] !== line) this.insertBefore(line, this.children[k] ?? null); });
  }

  line(job, old, newest) {
    const state = JSON.stringify([job.state, job.done, job.stage, job.variants, job.sentence]);
    if (old && old.dataset.known === state) return old;
    let choice = this.choices.get(job.id);
    if (job.variants && !choice) this.choices.set(job.id, (choice = new Choice(job)));
    const head = jobLine(job);
    const made = old ?? h("section", { class: "canon-making", "data-job": job.id }, h("div", {}), h("details", { open: newest }, h("summary", {}, "Look and choose")));
    made.dataset.known = state;
    made.dataset.state = job.state;
    made.firstElementChild.replaceWith(head);
    made.lastElementChild.hidden = !job.variants;
    if (choice) {
      if (choice.element.parentElement !== made.lastElementChild) made.lastElementChild.append(choice.element);
      choice.update(job).catch((error) => choice.element.replaceChildren(h("p", { class: "canon-sentence failed" }, error.message)));
    }
    return made;
  }
}

customElements.define("canon-variants", CanonVariants);

/** <canon-dismiss>: forgets, at once, the jobs of a kind that failed or were called off. */
class CanonDismiss extends HTMLElement {
  connectedCallback() {
    this.button = h("button", { onclick: () => this.dismiss() }, "Dismiss all that failed");
    this.replaceChildren(this.button);
    this.leave = feed.join(() => this.show());
    this.show();
  }

  disconnectedCallback() {
    this.leave?.();
  }

  get jobs() {
    const kind = this.getAttribute("of");
    return feed.jobs.filter((job) => (job.state === "failed" || job.state === "cancelled") && (!kind || job.function === kind));
  }

  show() {
    this.hidden = this.jobs.length < 2;
  }

  async dismiss() {
    for (const job of this.jobs) await attempt(() => ask(`/work/jobs/${job.id}`, "DELETE"));
    feed.now();
  }
}

customElements.define("canon-dismiss", CanonDismiss);

/** <canon-films>: what was rendered, the newest in a player. */
class CanonFilms extends HTMLElement {
  connectedCallback() {
    this.refresh = async () => {
      try {
        this.show((await ask("/work/project")).renders);
      } catch (error) {
        this.replaceChildren(h("p", { class: "canon-sentence failed" }, error.message));
      }
    };
    window.addEventListener("canon-project-changed", this.refresh);
    this.refresh();
  }

  disconnectedCallback() {
    window.removeEventListener("canon-project-changed", this.refresh);
  }

  show(renders) {
    const text = JSON.stringify(renders);
    if (text === this.known) return;
    this.known = text;
    if (!renders.length) {
      this.replaceChildren(h("p", { class: "canon-faint canon-empty" }, "What you render appears here, to play and to download."));
      return;
    }
    const current = renders.find((one) => one.name === this.picked && one.version === this.version) ?? renders[0];
    this.picked = current.name;
    this.version = current.version;
    const name = encodeURIComponent(current.name);
    const src = `/work/file/${name}?v=${current.version}`;
    const shown = current.type === "image/gif" ? h("img", { src, alt: current.name })
      : current.type === "video/quicktime" ? h("p", { class: "canon-faint canon-empty" }, "Browsers do not play ProRes; download it.")
      : h("video", { src, controls: true, loop: true, playsinline: true, preload: "auto" });
    this.replaceChildren(
      h("div", { class: "canon-film" }, shown),
      h("div", { class: "canon-save" }, h("strong", {}, current.name), h("span", { class: "canon-grow" }),
        h("a", { class: "button primary", href: `/work/file/${name}?download=true`, download: current.name }, "Download")),
      h("div", { class: "canon-chips", hidden: renders.length < 2 }, renders.map((one) =>
        h("button", { "aria-pressed": String(one === current), onclick: () => { this.picked = one.name; this.version = one.version; this.known = ""; this.show(renders); } }, one.name))));
  }
}

customElements.define("canon-films", CanonFilms);
