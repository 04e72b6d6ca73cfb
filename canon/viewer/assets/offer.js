/** The offer to go on with one of the drawings that were left. */
import { h, iconButton } from "./dom.js";
import { send } from "./server.js";

export class Offer {
  /** `open(id)`: go on with a drawing. */
  constructor(drawing, open) {
    Object.assign(this, { drawing, open });
    this.element = h("div", { class: "offer", role: "region", "aria-label": "Drawings that were left", hidden: true });
  }

  hide() {
    this.element.hidden = true;
  }

  /** Offer the drawings on this fit that were left and hold what no edit does, where nothing is painted yet. */
  async show() {
    let left = [];
    try {
      left = (await this.drawing.left()).filter((each) => each.unsaved);
    } catch {
      return;
    }
    this.element.hidden = !left.length || this.drawing.layers.length > 0;
    if (this.element.hidden) return;
    const title = left.length > 1 ? `${left.length} drawings were left here` : "A drawing was left here";
    this.element.replaceChildren(
      h("div", { class: "offer-head" }, h("strong", {}, title), iconButton("close", "Not now", () => this.hide())),
      h("ul", {}, ...left.map((each) => this.line(each))),
    );
  }

  line({ id, saved, layers, saved_as: name }) {
    const when = new Date(saved * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
    return h(
      "li",
      {},
      h("span", {}, `${when}: ${layers.join(", ")}${name ? `; changed since it was saved as \u201c${name}\u201d` : ""}`),
      h("button", { type: "button", onclick: () => this.open(id).then(() => this.hide(), () => {}) }, "Go on with it"),
      h("button", { type: "button", onclick: () => this.forget(id) }, "Throw it away"),
    );
  }

  async forget(id) {
    await send("DELETE", ["drafts", id]).catch(() => {});
    await this.show();
  }
}
