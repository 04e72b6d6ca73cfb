/** The offer to go on with a drawing that was left. */
import { h, iconButton } from "./dom.js";
import { send } from "./server.js";

export class Offer {
  /** `open(id)`: go on with a drawing. */
  constructor(drawing, open) {
    Object.assign(this, { drawing, open });
    this.element = h("div", { class: "offer", hidden: true });
  }

  hide() {
    this.element.hidden = true;
  }

  /** Offer the drawing on this fit that was left last, where nothing is painted yet. */
  async show() {
    let newest = null;
    try {
      [newest] = await this.drawing.left();
    } catch {
      return;
    }
    this.element.hidden = !newest || this.drawing.layers.length > 0;
    if (this.element.hidden) return;
    const when = new Date(newest.saved * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
    this.element.replaceChildren(
      h("span", {}, `A drawing of ${when} was left here (${newest.layers.join(", ")}).`),
      h("button", { type: "button", onclick: () => this.open(newest.id).then(() => this.hide()) }, "Go on with it"),
      h("button", { type: "button", onclick: () => this.forget(newest.id) }, "Throw it away"),
      iconButton("close", "Not now", () => this.hide()),
    );
  }

  async forget(id) {
    await send("DELETE", ["drafts", id]).catch(() => {});
    await this.show();
  }
}
