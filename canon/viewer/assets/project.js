// <canon-project>: the clip, fits, edits and renders of the project, with what can be done to each.
import { ProjectElement, ask, attempt, bytes, changed, element, h, openTab, question, say, segment, when } from "/canon/assets/shell.js";
import { feed } from "/canon/assets/jobs.js";

const KINDS = { fits: "fit", edits: "edit", renders: "render" };

class CanonProject extends ProjectElement {
  show(project) {
    const opened = new Set([...this.querySelectorAll("details[open]")].map((one) => one.dataset.key));
    this.jobs ??= document.createElement("canon-jobs");
    this.dismiss ??= document.createElement("canon-dismiss");
    this.replaceChildren(
      this.clip(project),
      this.dismiss,
      this.jobs,
      this.section("Fits", project.fits, (one) => this.fit(one), "No fit yet: canon fit VIDEO --project DIR makes one."),
      this.section("Edits", project.edits, (one) => this.edit(one), "No edit yet: paint one, or make one with an editor."),
      this.section("Renders", project.renders, (one) => this.render(one), "Nothing rendered yet."),
    );
    for (const one of this.querySelectorAll("details")) one.open = opened.has(one.dataset.key);
  }

  clip({ clip, name, folder }) {
    const facts = clip.sentence
      ? h("p", { class: "canon-sentence failed" }, clip.sentence)
      : h("p", { class: "canon-faint" },
          `${clip.source} · ${clip.frames} frames of ${clip.width}×${clip.height} · ${clip.seconds.toFixed(1)} s at ${Number(clip.fps.toFixed(3))} fps` +
            (clip.audio ? " · with sound" : "") + (clip.masks.length ? ` · masks: ${clip.masks.join(", ")}` : ""));
    return h("header", { class: "canon-clip" },
      h("div", {}, h("h2", {}, name), facts, h("p", { class: "canon-faint canon-path" }, folder)),
      clip.sentence ? null : h("img", { src: "/work/clip.jpg", alt: "Frames of the clip", loading: "lazy" }));
  }

  section(title, things, card, nothing) {
    return h("section", { class: "canon-section", "aria-label": title },
      h("h3", {}, title, h("span", { class: "canon-faint" }, ` ${things.length || ""}`)),
      things.length ? h("div", { class: "canon-cards" }, things.map(card)) : h("p", { class: "canon-faint" }, nothing));
  }

  card(kind, one, facts, buttons, details) {
    const src = `/work/thumbnail/${kind}/${segment(one.name)}?v=${one.version}`;
    return h("article", { class: "canon-card", "data-kind": kind, "data-name": one.name },
      one.sentence || one.fit === "" ? null : h("img", { class: "canon-thumb", src, alt: `${KINDS[kind]} ${one.name}`, loading: "lazy" }),
      h("div", { class: "canon-card-body" },
        h("div", { class: "canon-card-head" }, h("strong", { title: one.name }, one.name), h("span", { class: "canon-faint" }, when(one.made))),
        one.sentence ? h("p", { class: "canon-sentence failed" }, one.sentence) : h("p", { class: "canon-faint" }, facts),
        details,
        h("div", { class: "canon-buttons" }, one.sentence ? [] : buttons, h("span", { class: "canon-grow" }), ...this.changes(kind, one))));
  }

  changes(kind, one) {
    const path = `/work/${kind}/${segment(one.name)}`;
    return [
      h("button", { class: "quiet", onclick: async () => {
        const to = await question({ title: `Rename ${KINDS[kind]} “${one.name}”`, value: one.name, confirm: "Rename" });
        if (to && to !== one.name) await attempt(() => ask(`${path}/rename`, "POST", { to }));
        changed();
      } }, "Rename"),
      h("button", { class: "quiet", onclick: async () => {
        const text = kind === "fits" ? "Edits that were made on it cannot be rendered any more." : "This cannot be taken back.";
        const sure = await question({ title: `Delete ${KINDS[kind]} “${one.name}”?`, text, confirm: "Delete", danger: true });
        if (sure) await attempt(() => ask(`/work/thing/${kind}/${segment(one.name)}`, "DELETE"));
        changed();
      } }, "Delete"),
    ];
  }

  fit(one) {
    const stats = one.stats || {};
    const facts = [one.representation, (one.layers || []).join(", "),
      stats.psnr === undefined ? null : `${stats.psnr.toFixed(1)} dB`,
      stats.seconds_total === undefined ? null : `${stats.seconds_total.toFixed(0)} s`].filter(Boolean).join(" · ");
    const buttons = [
      h("button", { class: "primary", onclick: () => show("Look", { fit: one.name, edits: [] }) }, "Look"),
      h("button", { onclick: () => show("Paint", { fit: one.name }) }, "Paint"),
      one.spatial ? h("button", { onclick: () => show("3-D", { fit: one.name }) }, "3-D") : null,
      measure("fits", one),
    ];
    return this.card("fits", one, facts, buttons, tables("fits", one));
  }

  edit(one) {
    const facts = [(one.editors || []).join(", "), (one.layers || []).join(", "), one.prompt ? `“${one.prompt}”` : null,
      one.fit ? `on ${one.fit}` : "its fit is gone"].filter(Boolean).join(" · ");
    const buttons = [
      one.fit ? h("button", { class: "primary", onclick: () => show("Look", { fit: one.fit, edits: [one.name] }) }, "Look") : null,
      one.fit && one.settings?.drawn !== undefined ? h("button", { onclick: () => paintAgain(one) }, "Paint") : null,
      one.fit ? measure("edits", one) : null,
      h("button", { onclick: () => history(one.name) }, "History"),
    ];
    return this.card("edits", one, facts, buttons, tables("edits", one));
  }

  render(one) {
    const src = `/work/file/${segment(one.name)}?v=${one.version}`;
    const buttons = [
      one.type === "video/quicktime" ? null : h("button", { class: "primary", onclick: () => play(one.name, src, one.type) }, "Play"),
      h("a", { class: "button", href: `/work/file/${segment(one.name)}?download=true`, download: one.name }, "Download"),
    ];
    return this.card("renders", one, bytes(one.bytes || 0), buttons, null);
  }
}

function measure(kind, one) {
  return h("button", { onclick: async () => {
    const asked = await attempt(() => ask("/work/measure", "POST", { kind, name: one.name }));
    if (asked) say(`“${one.name}” is being measured; the figures appear with it.`);
    feed.now();
  } }, "Measure");
}

function tables(kind, one) {
  const figures = Object.entries(one.figures || {});
  const parts = [];
  if (figures.length) parts.push(fold(`${kind}/${one.name}/figures`, "Figures", figures, (value) => typeof value === "number" ? Number(value.toPrecision(4)).toString() : value));
  const settings = Object.entries(one.settings || {});
  if (settings.length) parts.push(fold(`${kind}/${one.name}/settings`, "Settings", settings, (value) => value));
  return h("div", {}, parts);
}

function fold(key, title, rows, format) {
  return h("details", { "data-key": key }, h("summary", {}, title),
    h("table", {}, h("tbody", {}, rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name.replaceAll("_", " ")), h("td", {}, String(format(value))))))));
}

/** Open the tab that looks at, or paints on, something. */
export async function show(label, what) {
  openTab(label);
  const chooser = await element({ Look: "canon-look", Paint: "canon-paint", "3-D": "canon-spatial" }[label]);
  if (!chooser.project) await chooser.refresh(); // the tab was never open
  chooser.choose(what);
}

/** Open the tab that paints with the layers that an edit was painted as. */
async function paintAgain({ name, fit }) {
  openTab("Paint");
  const chooser = await element("canon-paint");
  await chooser.refresh();
  if (chooser.fit !== fit || !chooser.inner) {
    Object.assign(chooser, { fit, edits: [] });
    await chooser.open();
  }
  await chooser.inner.open({ edit: name }).catch(() => {}); // which it says itself
  chooser.choose({ edits: chooser.inner.edits });
}

function play(name, src, type) {
  const shown = type === "image/gif" ? h("img", { src, alt: name }) : h("video", { src, controls: true, autoplay: true, loop: true, playsinline: true });
  const box = h("dialog", { class: "canon-dialog wide" }, h("h3", {}, name), shown,
    h("footer", {}, h("button", { onclick: () => box.close() }, "Close")));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

async function history(name) {
  let versions;
  if (!(await attempt(async () => { ({ versions } = await ask(`/canon/edits/${segment(name)}/history`)); }))) return;
  const lines = versions.map((one) => h("li", {},
    h("span", {}, `${new Date(one.saved * 1000).toLocaleString()} · ${one.editors.join(", ")} on ${one.layers.join(", ")}`),
    one.current ? h("span", { class: "canon-faint" }, "as it is now") : h("button", { onclick: async () => {
      if (await attempt(() => ask(`/canon/edits/${segment(name)}/restore`, "POST", { version: one.version }))) {
        say(`“${name}” is again as it was.`);
        box.close();
        changed();
      }
    } }, "Go back to this")));
  const none = h("p", { class: "canon-faint" }, "No versions are kept: this edit was made outside of the viewer.");
  const box = h("dialog", { class: "canon-dialog" }, h("h3", {}, `History of “${name}”`),
    versions.length ? h("ul", { class: "canon-list" }, lines) : none,
    h("footer", {}, h("button", { onclick: () => box.close() }, "Close")));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

customElements.define("canon-project", CanonProject);
