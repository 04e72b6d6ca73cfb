// What the pages around the painter and the inspector share: asking the server, making elements, dialogs, the tabs.

/** The server's answer as JSON; an Error with the server's sentence (and .status) if it refuses or does not answer. */
export async function ask(path, method = "GET", body = undefined) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    away = true;
    const error = new Error("The viewer does not answer; see whether 'canon view' is still running.");
    error.status = 0;
    throw error;
  }
  if (away) renew();
  let said = {};
  try {
    said = await answer.json();
  } catch {
    said = {};
  }
  if (!answer.ok) {
    const error = new Error(said.error || `The viewer failed (${answer.status}); its terminal says more.`);
    error.status = answer.status;
    throw error;
  }
  return said;
}

let away = false;
let server = window.gradio_config?.app_id;

/** A viewer that was started anew does not know the form that an open page shows: have it make that again. */
async function renew() {
  away = false;
  try {
    const { app_id } = await (await fetch("/gradio_api/app_id")).json();
    if (app_id === server) return;
    server = app_id;
    document.querySelector("#renew")?.click();
    const editor = chosenEditor();
    for (const [id, text] of typed.get(editor) ?? []) retype(editor, id, text);
  } catch {
    away = true;
  }
}

document.addEventListener("visibilitychange", () => document.hidden || renew());

const TYPED = '[id^="option-"] textarea, [id^="option-"] input[type="text"]:not([role])';
const typed = new Map();
const chosenEditor = () => document.querySelector("#editor input")?.value;

document.addEventListener("input", (event) => {
  if (!event.isTrusted || !event.target.matches(TYPED)) return;
  const editor = chosenEditor();
  if (!typed.has(editor)) typed.set(editor, new Map());
  typed.get(editor).set(event.target.closest('[id^="option-"]').id, event.target.value);
}, true);

/** Put back what somebody had typed, once the form was made again. */
async function retype(editor, id, text) {
  const box = () => document.querySelector(`#${id} textarea, #${id} input`);
  for (let tries = 0; tries < 60 && (!box() || box().value === text); tries++) await new Promise((resolve) => setTimeout(resolve, 50));
  if (!box() || chosenEditor() !== editor) return;
  box().value = text;
  box().dispatchEvent(new Event("input", { bubbles: true }));
}

/** The tab is in the address, so that a page that is loaded again comes back to it. */
function keepTab() {
  const chosen = document.querySelector('button[role="tab"][aria-selected="true"]')?.textContent.trim();
  if (chosen && decodeURIComponent(location.hash.slice(1)) !== chosen) history.replaceState(history.state, "", `#${encodeURIComponent(chosen)}`);
}

document.addEventListener("click", () => setTimeout(keepTab, 0));
window.addEventListener("hashchange", () => openTab(decodeURIComponent(location.hash.slice(1))));
if (location.hash) element('button[role="tab"]').then(() => openTab(decodeURIComponent(location.hash.slice(1))), () => {});

/** An element: h("button", {class: "x", onclick: f}, "text", child). Texts are never read as HTML. */
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const segment = encodeURIComponent;

/** Ask a question; resolves to the text typed, true, or null when it was called off. */
export function question({ title, text = "", value = null, confirm = "OK", danger = false }) {
  return new Promise((resolve) => {
    const input = value === null ? null : h("input", { type: "text", value, "aria-label": title, maxlength: 120 });
    const yes = h("button", { class: danger ? "danger" : "primary", value: "yes", type: "submit" }, confirm);
    const no = h("button", { value: "no", type: "button", onclick: () => box.close("no") }, "Cancel");
    const form = h("form", { method: "dialog" }, h("h3", {}, title), h("p", {}, text), input, h("footer", {}, no, yes));
    const box = h("dialog", { class: "canon-dialog" }, form);
    box.addEventListener("close", () => {
      box.remove();
      resolve(box.returnValue === "yes" ? (input ? input.value.trim() : true) : null);
    });
    document.body.append(box);
    box.showModal();
    if (input) input.select();
  });
}

/** Say something at the bottom of the page for a while. */
export function say(sentence, failed = false) {
  document.querySelector(".canon-note")?.remove();
  const note = h("div", { class: failed ? "canon-note failed" : "canon-note", role: failed ? "alert" : "status" }, sentence);
  document.body.append(note);
  setTimeout(() => note.remove(), failed ? 12000 : 5000);
}

/** Do something that may be refused; a refusal is said. Resolves to whether it was done. */
export async function attempt(action) {
  try {
    await action();
    return true;
  } catch (error) {
    say(error.message, true);
    return false;
  }
}

/** Open one of the page's tabs by its label. */
export function openTab(label) {
  for (const tab of document.querySelectorAll('button[role="tab"]')) {
    if (tab.textContent.trim() === label) {
      if (tab.getAttribute("aria-selected") !== "true") tab.click();
      return;
    }
  }
}

/** An element of the page once it is there: tabs are made when they are first opened. */
export async function element(selector) {
  for (let tries = 0; tries < 200; tries++) {
    const found = document.querySelector(selector);
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error("The page could not be opened; reload it.");
}

/** 1536 -> "1.5 kB". */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let k = 0;
  while (count >= 1000 && k < units.length - 1) {
    count /= 1000;
    k += 1;
  }
  return `${count.toFixed(k && count < 10 ? 1 : 0)} ${units[k]}`;
}

/** When something was made, for people. */
export function when(seconds) {
  const date = new Date(seconds * 1000);
  const today = new Date().toDateString() === date.toDateString();
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? time : `${date.toLocaleDateString()} ${time}`;
}

/** The project changed: everybody who shows it asks again. */
export function changed() {
  window.dispatchEvent(new Event("canon-project-changed"));
}

/** A custom element that shows the project's contents and draws itself anew whenever they change. */
export class ProjectElement extends HTMLElement {
  connectedCallback() {
    this.refresh = this.refresh.bind(this);
    window.addEventListener("canon-project-changed", this.refresh);
    document.addEventListener("canon-saved", this.refresh);
    document.addEventListener("visibilitychange", this.refresh);
    this.refresh();
  }

  disconnectedCallback() {
    window.removeEventListener("canon-project-changed", this.refresh);
    document.removeEventListener("canon-saved", this.refresh);
    document.removeEventListener("visibilitychange", this.refresh);
  }

  async refresh() {
    if (document.hidden) return;
    try {
      const project = await ask("/work/project");
      const text = JSON.stringify(project);
      if (text !== this.known) {
        this.known = text;
        this.show(project);
      }
    } catch (error) {
      this.known = "";
      this.replaceChildren(h("p", { class: "canon-sentence failed", role: "alert" }, error.message));
    }
  }
}
