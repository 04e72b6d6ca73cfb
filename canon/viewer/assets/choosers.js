// <canon-look>, <canon-paint> and <canon-spatial>: which fit, and which edits below, for what is shown under them.
import { ProjectElement, ask, h } from "/canon/assets/shell.js";

/** A bar with a fit and a stack of its edits, above an element that shows them. */
class Chooser extends ProjectElement {
  wanted(project) {
    return project.fits.filter((fit) => !fit.sentence);
  }

  show(project) {
    this.project = project;
    const fits = this.wanted(project);
    if (!this.bar) {
      this.bar = h("div", { class: "canon-bar" });
      this.body = h("div", {});
      this.replaceChildren(this.bar, this.body);
    }
    if (!fits.length) {
      this.bar.replaceChildren();
      this.body.replaceChildren(h("p", { class: "canon-faint canon-empty" }, "There is no fit to show; make one with canon fit VIDEO --project DIR."));
      this.fit = undefined;
      return;
    }
    const known = fits.some((fit) => fit.name === this.fit);
    if (!known) {
      this.fit = fits[0].name;
      this.edits = [];
    }
    const there = new Set(this.possible().map((edit) => edit.name));
    const kept = (this.edits ?? []).filter((name) => there.has(name));
    const lost = kept.length !== (this.edits ?? []).length;
    this.edits = kept;
    this.drawBar(fits);
    if (!known || lost) this.open();
  }

  /** Edits that can be stacked on the fit. */
  possible() {
    return this.project.edits.filter((edit) => !edit.sentence && edit.fit === this.fit);
  }

  choose({ fit, edits }) {
    if (fit !== undefined && fit !== this.fit) {
      this.fit = fit;
      this.edits = [];
    }
    if (edits !== undefined) this.edits = edits;
    if (this.project) this.drawBar(this.wanted(this.project));
    this.open();
  }

  drawBar(fits) {
    const parts = [];
    if (fits.length > 1) {
      const select = h("select", { "aria-label": "Fit", onchange: () => this.choose({ fit: select.value }) },
        fits.map((fit) => h("option", { value: fit.name }, fit.name)));
      select.value = this.fit;
      parts.push(h("label", {}, "Fit", select));
    }
    const edits = this.possible();
    if (edits.length) {
      parts.push(h("span", { class: "canon-faint" }, this.getAttribute("below") || "With edits"));
      for (const edit of edits) {
        const place = this.edits.indexOf(edit.name);
        parts.push(h("button", { class: "canon-chip", "aria-pressed": String(place >= 0), title: `${edit.name} (in the order in which they are pressed, the first at the bottom)`,
          onclick: () => this.choose({ edits: place >= 0 ? this.edits.filter((name) => name !== edit.name) : [...this.edits, edit.name] }) },
          place >= 0 && this.edits.length > 1 ? `${place + 1} · ${edit.name}` : edit.name));
      }
    }
    this.bar.replaceChildren(...parts, ...this.more());
    this.bar.hidden = !this.bar.children.length;
  }

  more() {
    return [];
  }
}

class CanonLook extends Chooser {
  async open() {
    await customElements.whenDefined("canon-inspector");
    this.inner ??= document.createElement("canon-inspector");
    if (this.inner.parentElement !== this.body) this.body.replaceChildren(this.inner);
    const shown = this.fit + this.version();
    if (this.shown === shown) this.inner.edits = this.edits;
    else await this.inner.open({ fit: this.fit, edits: this.edits });
    this.shown = shown;
  }

  version() {
    return this.project?.fits.find((fit) => fit.name === this.fit)?.version;
  }
}

class CanonPaint extends Chooser {
  async open() {
    await customElements.whenDefined("canon-painter");
    this.inner ??= document.createElement("canon-painter");
    if (this.inner.parentElement !== this.body) this.body.replaceChildren(this.inner);
    if (this.shown === this.fit) await this.inner.setEdits(this.edits);
    else await this.inner.open({ fit: this.fit, edits: this.edits });
    this.shown = this.fit;
  }
}

class CanonSpatial extends Chooser {
  wanted(project) {
    return project.fits.filter((fit) => !fit.sentence && fit.spatial);
  }

  more() {
    return [h("button", { class: "primary", onclick: () => this.start() }, this.url ? "Show these" : "Open the view")];
  }

  open() {
    if (!this.url) this.body.replaceChildren(h("p", { class: "canon-faint canon-empty" }, "Orbit around the scene, pose the person, record a camera path."));
  }

  async start() {
    this.body.replaceChildren(h("p", { class: "canon-faint canon-empty" }, "The view is being prepared …"));
    try {
      const { url } = await ask("/work/spatial", "POST", { fit: this.fit, edits: this.edits });
      this.url = url;
      this.body.replaceChildren(
        h("iframe", { class: "canon-spatial-frame", src: url, title: "The fit in three dimensions" }),
        h("p", { class: "canon-faint" }, h("a", { href: url, target: "_blank", rel: "noopener" }, `Open ${url} in a tab of its own`)));
      this.drawBar(this.wanted(this.project));
    } catch (error) {
      this.body.replaceChildren(h("p", { class: "canon-sentence failed", role: "alert" }, error.message));
    }
  }
}

customElements.define("canon-look", CanonLook);
customElements.define("canon-paint", CanonPaint);
customElements.define("canon-spatial", CanonSpatial);
