/** The list of layers: which is painted on, which are seen, in what order. */
import { h, iconButton, slider } from "./dom.js";

/** Where a layer of paint lies, in words. */
export function place(target) {
  if (target.frame !== null && target.frame !== undefined) return `frame ${target.frame}`;
  return target.segment ? `${target.layer}, segment ${target.segment}` : target.layer;
}

export class LayersPanel {
  /** `act`: {choose, change, remove, move, add} as the painter does them. */
  constructor(act) {
    this.act = act;
    this.list = h("ol", { class: "layers", role: "listbox", "aria-label": "Layers of paint, the top one first" });
    this.element = h(
      "section",
      { class: "panel layers-panel", "aria-label": "Layers" },
      h(
        "div",
        { class: "panel-head" },
        h("strong", {}, "Layers"),
        h("span", { class: "grow" }),
        iconButton("plus", "New layer", () => act.add()),
      ),
      this.list,
    );
  }

  /** `layers`: from the bottom to the top, as the server describes them; `active`: the chosen one. */
  show(layers, active, target) {
    this.list.replaceChildren(...[...layers].reverse().map((layer) => this.row(layer, layer.id === active, place(layer.target) === place(target))));
    if (!layers.length) this.list.append(h("li", { class: "quiet empty" }, "Paint, drop a picture, or add a layer."));
  }

  row(layer, active, here) {
    const { act } = this;
    const kinds = { brush: "paint", image: "picture", text: "text" };
    const name = h("input", { class: "layer-name", value: layer.name, "aria-label": "Name of the layer", maxlength: 80, spellcheck: "false" });
    name.addEventListener("change", () => act.change(layer, { name: name.value }));
    name.addEventListener("keydown", (event) => event.key === "Enter" && name.blur());
    const item = h(
      "li",
      { class: `layer${active ? " active" : ""}${here ? "" : " elsewhere"}`, role: "option", "aria-selected": String(active), tabindex: "0", draggable: "true" },
      iconButton(layer.visible ? "eye" : "hidden", layer.visible ? "Hide" : "Show", (event) => {
        event.stopPropagation();
        act.change(layer, { visible: !layer.visible });
      }),
      h("span", { class: "layer-text" }, name, h("small", { class: "quiet" }, `${kinds[layer.kind]} on ${place(layer.target)}`)),
      iconButton("up", "Move up", (event) => (event.stopPropagation(), act.move(layer, 1))),
      iconButton("down", "Move down", (event) => (event.stopPropagation(), act.move(layer, -1))),
      iconButton("trash", "Delete layer", (event) => (event.stopPropagation(), act.remove(layer))),
    );
    if (active) {
      item.append(
        slider("Opacity", {
          min: 0, max: 1, step: 0.01, value: layer.opacity,
          format: (value) => `${Math.round(100 * value)} %`,
          onvalue: (value) => act.change(layer, { opacity: value }, true),
          onend: (value) => act.change(layer, { opacity: value }, true, true),
        }),
      );
    }
    item.addEventListener("click", (event) => !active && event.target !== name && act.choose(layer));
    item.addEventListener("keydown", (event) => {
      if (event.target !== item) return;
      if (event.key === "Enter" || event.key === " ") act.choose(layer);
      else if (event.key === "Delete") act.remove(layer);
      else if (event.key === "F2") name.focus();
      else if (event.key === "ArrowDown") item.nextElementSibling?.focus();
      else if (event.key === "ArrowUp") item.previousElementSibling?.focus();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    item.addEventListener("dragstart", (event) => event.dataTransfer.setData("application/x-canon-layer", String(layer.id)));
    item.addEventListener("dragover", (event) => event.dataTransfer.types.includes("application/x-canon-layer") && event.preventDefault());
    item.addEventListener("drop", (event) => {
      const id = Number(event.dataTransfer.getData("application/x-canon-layer"));
      if (!id || id === layer.id) return;
      event.preventDefault();
      event.stopPropagation();
      act.moveTo(id, layer);
    });
    return item;
  }
}
