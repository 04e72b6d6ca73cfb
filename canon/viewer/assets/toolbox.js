/** The tools to choose from, and how the brush is set. */
import { h, iconButton, slider } from "./dom.js";

const TOOLS = [
  ["brush", "Brush (B)", "b"],
  ["eraser", "Eraser (E)", "e"],
  ["picker", "Pick a colour (I; or hold Alt)", "i"],
  ["text", "Text (T)", "t"],
  ["move", "Move a picture or text (V)", "v"],
  ["hand", "Move the view (H; or hold Space)", "h"],
];
const LARGEST = 400;

export class Toolbox {
  /** `onchoose()`: another tool; `oncolour(colour)`; `onpicture()`: a picture is to be placed. */
  constructor({ onchoose, oncolour, onpicture }) {
    Object.assign(this, { onchoose, oncolour });
    this.tool = "brush";
    this.spaceHeld = false;
    this.settings = { size: 40, hardness: 0.8, opacity: 1, colour: "#e8432f" };
    this.buttons = TOOLS.map(([name, label]) => iconButton(name, label, () => this.choose(name), { "aria-pressed": String(name === this.tool), "data-tool": name }));
    const sticker = iconButton("image", "Place a picture (or drop one here)", onpicture, { "data-tool": "image" });
    this.element = h("div", { class: "tools", role: "toolbar", "aria-label": "Tools", "aria-orientation": "vertical" }, ...this.buttons.slice(0, 3), sticker, ...this.buttons.slice(3));
    this.colour = h("input", { type: "color", value: this.settings.colour, "aria-label": "Colour", class: "colour" });
    this.colour.addEventListener("input", () => this.setColour(this.colour.value));
    this.size = slider("Size", {
      min: 1, max: LARGEST, value: this.settings.size, curve: 2.2, format: (value) => `${value} px`,
      onvalue: (value) => (this.settings.size = value),
    });
    this.options = h(
      "div",
      { class: "options" },
      this.size,
      slider("Hardness", { min: 0, max: 1, step: 0.01, value: this.settings.hardness, format: percent, onvalue: (value) => (this.settings.hardness = value) }),
      slider("Opacity", { min: 0.02, max: 1, step: 0.01, value: this.settings.opacity, format: percent, onvalue: (value) => (this.settings.opacity = value) }),
    );
  }

  /** The tool that the pointer is now. */
  get inHand() {
    return this.spaceHeld ? "hand" : this.tool;
  }

  /** Whether it is one that paints, or takes paint away. */
  get paints() {
    return this.tool === "brush" || this.tool === "eraser";
  }

  /** What a brush needs to know. */
  get brush() {
    return { ...this.settings, erase: this.tool === "eraser" };
  }

  choose(tool) {
    this.tool = tool;
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    this.onchoose();
  }

  holdSpace(held) {
    this.spaceHeld = held;
    this.onchoose();
  }

  setColour(colour) {
    this.showColour(colour);
    this.oncolour(colour);
  }

  showColour(colour) {
    this.settings.colour = this.colour.value = colour;
  }

  /** A letter of a tool, or a bracket for the size; true if it was one of ours. */
  key(key) {
    const tool = TOOLS.find(([, , letter]) => letter === key);
    if (tool) this.choose(tool[0]);
    else if (key === "[" || key === "]") {
      const { size } = this.settings;
      const wanted = key === "]" ? Math.max(size * 1.2, size + 1) : Math.min(size / 1.2, size - 1);
      this.settings.size = Math.round(Math.min(Math.max(wanted, 1), LARGEST));
      this.size.set(this.settings.size);
    } else return false;
    return true;
  }
}

function percent(value) {
  return `${Math.round(100 * value)} %`;
}
