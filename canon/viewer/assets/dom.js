/** Small helpers to make elements, icons and themes. */

/** An element: h("button", {class: "x", onclick: f}, "text", child). */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "hidden" || key === "disabled") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const PATHS = {
  brush: "M4 20c3 0 5-1 5-3.5A2.5 2.5 0 0 0 6.5 14C4 14 4.5 17 3 18.5c0 0 .2 1.5 1 1.5zM9.5 14.5 19.5 4.5M11 17l9-10",
  eraser: "M4 15.5 13 6.5a2 2 0 0 1 2.800 0l3.200 3.200a2 2 0 0 1 0 2.800L12.5 19H7.5zM8.5 11l6 6M12.5 19H20",
  picker: "M14 6l4 4M12.5 7.5l4 4L9 19H5v-4zM16 4.5a2.1 2.1 0 0 1 3 0l.5.5a2.1 2.1 0 0 1 0 3L18 9.5 14.5 6z",
  text: "M5 7V5h14v2M12 5v14M9 19h6",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 2.5-2.5L20 17M15 9.5a1 1 0 1 0 .01 0",
  move: "M12 4v16M4 12h16M9.5 6.5 12 4l2.5 2.5M9.5 17.5 12 20l2.5-2.5M6.5 9.5 4 12l2.5 2.5M17.5 9.5 20 12l-2.500 2.500",
  hand: "M8 12V6.5a1.5 1.5 0 0 1 3 0V11m0-.5V5a1.5 1.5 0 0 1 3 0v6m0-4.5a1.5 1.5 0 0 1 3 0V13m0-3a1.5 1.5 0 0 1 3 0v4a6 6 0 0 1-6 6h-1.5a6 6 0 0 1-4.600-2.200L5 13.5a1.5 1.5 0 0 1 2.300-1.900L8 12.5",
  undo: "M9 7 5 11l4 4M5 11h9a5 5 0 0 1 0 10h-2",
  redo: "M15 7l4 4-4 4M19 11h-9a5 5 0 0 0 0 10h2",
  eye: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 9.5a2.5 2.5 0 1 0 .01 0",
  hidden: "M4 4l16 16M9.5 6a9 9 0 0 1 2.5-.5c6 0 9.5 6.5 9.5 6.5a16 16 0 0 1-3 3.700M6.5 7.700A16 16 0 0 0 2.5 12s3.5 6.5 9.5 6.5a9 9 0 0 0 4-1",
  up: "M6 14.5l6-6 6 6",
  down: "M6 9.5l6 6 6-6",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.400L17 7M10.5 10.5v6M13.5 10.5v6",
  plus: "M12 5v14M5 12h14",
  play: "M8 5.5v13l10.5-6.5z",
  pause: "M8 5.5v13M16 5.5v13",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  save: "M5 4h11l3 3v13H5zM8 4v5h7V4M8 20v-6h8v6",
  export: "M12 15V4M8 8l4-4 4 4M5 14v6h14v-6",
  import: "M12 4v11M8 11l4 4 4-4M5 14v6h14v-6",
  track: "M4 18c3-9 6-3 9-8s4-6 7-5M4 18h.01M20 5h.01",
  previous: "M15 6l-6 6 6 6",
  next: "M9 6l6 6-6 6",
  close: "M6 6l12 12M18 6 6 18",
};

/** An icon that takes the colour of the text around it. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon; the label is what screen readers and the tooltip say. */
export function iconButton(name, label, onclick, properties = {}) {
  return h("button", { type: "button", class: "icon-button", title: label, "aria-label": label.split(" (")[0], onclick, ...properties }, icon(name));
}

/** A slider with its label and value; onvalue(number) while it moves. */
export function slider(label, { min, max, step = 1, value, format = String, onvalue, onend = () => {}, curve = 1 }) {
  const output = h("output", {}, format(value));
  const to = (number) => Math.round(1000 * ((number - min) / (max - min)) ** (1 / curve));
  const from = (position) => {
    const number = min + (max - min) * (position / 1000) ** curve;
    return Math.min(max, Math.max(min, Math.round(number / step) * step));
  };
  const input = h("input", { type: "range", min: 0, max: 1000, value: to(value), "aria-label": label });
  const describe = (number) => {
    output.textContent = format(number);
    input.setAttribute("aria-valuetext", format(number));
  };
  describe(value);
  input.addEventListener("input", () => {
    describe(from(Number(input.value)));
    onvalue(from(Number(input.value)));
  });
  input.addEventListener("change", () => onend(from(Number(input.value))));
  const field = h("label", { class: "slider" }, h("span", {}, label), input, output);
  field.set = (number) => {
    input.value = to(number);
    describe(number);
  };
  return field;
}

/** A choice of a few words; onvalue(value). */
export function choice(label, options, value, onvalue) {
  const field = h("select", { "aria-label": label, onchange: () => onvalue(field.value) });
  field.fill = (entries, chosen) => {
    field.replaceChildren(...entries.map(([key, text]) => h("option", { value: key }, text)));
    field.value = chosen;
  };
  field.fill(options, value);
  return field;
}

/** Keep an element's attribute "theme" at what the page around it shows: gradio's, or else the system's. */
export function followTheme(element) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const update = () => {
    const inside = document.querySelector("gradio-app, .gradio-container");
    const dark = inside ? document.body.classList.contains("dark") : system.matches;
    element.setAttribute("theme", dark ? "dark" : "light");
  };
  update();
  system.addEventListener("change", update);
  const watch = new MutationObserver(update);
  watch.observe(document.body, { attributes: true, attributeFilter: ["class"], childList: true });
  return () => {
    system.removeEventListener("change", update);
    watch.disconnect();
  };
}

/** The shadow tree of an element with the shared style. */
export function styledRoot(element) {
  const root = element.attachShadow({ mode: "open" });
  const style = h("link", { rel: "stylesheet", href: new URL("canon.css", import.meta.url).pathname });
  root.append(style);
  return root;
}

/** Tell the page around an element that something happened. */
export function tell(element, name, detail) {
  element.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
}

/** Whether a key press is meant for a field that is typed into. */
export function isTyping(event) {
  const target = event.composedPath()[0];
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || target.tagName === "TEXTAREA" || target.tagName === "SELECT" || (target.tagName === "INPUT" && target.type !== "range" && target.type !== "checkbox");
}
