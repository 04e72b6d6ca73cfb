/** Saving the drawing as an edit, and exchanging it with other paint programs. */
import { h, icon } from "./dom.js";
import { address, ask, get } from "./server.js";

export class SavePanel {
  /** `act`: {save(name, replace), open(name), exportAs(format), chooseFile(), say(sentence, kind)} as the painter does them. */
  constructor(act) {
    this.act = act;
    this.name = h("input", { type: "text", placeholder: "name of the edit", "aria-label": "Name of the edit", maxlength: 80, spellcheck: "false" });
    this.name.addEventListener("keydown", (event) => event.key === "Enter" && this.save());
    this.button = h("button", { type: "button", class: "primary", onclick: () => this.save() }, "Save");
    const open = h("button", { type: "button", class: "chip", title: "Bring back the layers of the edit of this name", onclick: () => this.open() }, "Open");
    const exchange = h(
      "div",
      { class: "exchange" },
      h("button", { type: "button", class: "small", title: "Open a layered file or picture", onclick: () => act.chooseFile() }, icon("import"), "Import"),
      ...["ora", "psd", "png"].map((format) =>
        h("button", { type: "button", class: "small", title: `Download the layers as .${format}`, onclick: () => act.exportAs(format) }, icon("export"), format.toUpperCase()),
      ),
    );
    this.element = h("section", { class: "panel save-panel", "aria-label": "Save" }, exchange, h("div", { class: "save" }, this.name, this.button, open));
  }

  /** Save under the name that is written there; one that exists is replaced when it is asked for twice. */
  async save() {
    const name = this.name.value.trim();
    if (!name) return this.name.focus();
    try {
      const { edits } = await get(["edits"]);
      const sure = this.confirming === name;
      if (!sure && edits.some((edit) => edit.name === name)) {
        this.confirm(name);
        return this.act.say(`There is an edit '${name}' already; choose another name, or replace it.`);
      }
      await this.act.save(name, sure);
      this.act.say(`Saved as '${name}'.`, "good");
      this.confirm(null);
    } catch (error) {
      if (/already/.test(error.message)) this.confirm(name);
      this.act.say(error.message);
    }
  }

  /** Go on with the layers of the edit whose name is written there. */
  async open() {
    const name = this.name.value.trim();
    if (!name) return this.name.focus();
    await this.act.open(name).catch(() => {});
  }

  /** The drawing is that of an edit, to be replaced by the next saving. */
  show(name) {
    this.name.value = name;
    this.confirm(name);
  }

  confirm(name) {
    this.confirming = name;
    this.button.textContent = name ? "Replace" : "Save";
    if (name) this.name.addEventListener("input", () => this.confirm(null), { once: true });
  }
}

/** Let the browser download what is painted on a target. */
export async function download(drawing, target, format) {
  const answer = await ask(address(drawing.parts("export"), { format, ...target }));
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? `drawing.${format}`;
  const link = h("a", { href: URL.createObjectURL(await answer.blob()), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
