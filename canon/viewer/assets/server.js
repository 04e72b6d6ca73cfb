/** Talking to the viewer's server: errors are sentences, and a server that is gone is waited for. */

const ROOT = new URL("..", import.meta.url).pathname.replace(/\/$/, "");

/** An answer with a sentence for people; `status` 0: the server did not answer at all. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Names this page load among all tabs. */
export const TAB = crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2);

/** An address under /canon; parameters that are null or "" are left out. */
export function address(parts, query = {}) {
  const path = parts.map((part) => encodeURIComponent(part)).join("/");
  const kept = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(kept.map(([key, value]) => [key, String(value)]));
  return `${ROOT}/${path}${kept.length ? `?${search}` : ""}`;
}

/** fetch() whose failures are ServerErrors; aborted requests throw as they do. */
export async function ask(url, options = {}) {
  let answer;
  try {
    answer = await fetch(url, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The viewer's server does not answer.", 0);
  }
  if (answer.ok) return answer;
  let sentence = `The server answered with an error (${answer.status}).`;
  try {
    sentence = (await answer.json()).error || sentence;
  } catch {
    // not one of our sentences
  }
  throw new ServerError(sentence, answer.status);
}

/** GET, as JSON. */
export async function get(parts, query, options) {
  return (await ask(address(parts, query), options)).json();
}

/** Send JSON, get JSON. */
export async function send(method, parts, query, value) {
  const options = { method };
  if (value !== undefined) {
    options.body = JSON.stringify(value);
    options.headers = { "Content-Type": "application/json" };
  }
  return (await ask(address(parts, query), options)).json();
}

/**
 * Things to be told to the server, in order, one at a time. While it does not answer, they wait; nothing is dropped.
 * `onState(connected, sentence)` is called when that changes.
 */
export class Outbox {
  constructor(onState) {
    this.jobs = [];
    this.running = false;
    this.connected = true;
    this.onState = onState;
    this.onReconnect = async () => {};
  }

  /** Do a job after those before it; the promise is rejected with the server's sentence. */
  push(job) {
    return new Promise((resolve, reject) => {
      this.jobs.push({ job, resolve, reject });
      this.run();
    });
  }

  /** Until all that was pushed is done. */
  settled() {
    return this.push(async () => {});
  }

  async run() {
    if (this.running) return;
    this.running = true;
    let wait = 500;
    while (this.jobs.length) {
      const { job, resolve, reject } = this.jobs[0];
      try {
        if (!this.connected) await this.onReconnect();
        const value = await job();
        this.jobs.shift();
        resolve(value);
        wait = 500;
        if (!this.connected) {
          this.connected = true;
          this.onState(true, "");
        }
      } catch (error) {
        if (error instanceof ServerError && (error.status === 0 || error.status === 502 || error.status === 503)) {
          if (this.connected) {
            this.connected = false;
            this.onState(false, "The viewer's server does not answer. What you paint is kept here until it does.");
          }
          await new Promise((done) => setTimeout(done, wait));
          wait = Math.min(wait * 1.6, 5000);
          continue;
        }
        this.jobs.shift();
        reject(error);
      }
    }
    this.running = false;
  }
}

/** Pictures by address: at most so many asked for at once, the latest wish first served, those before dropped. */
export class Latest {
  constructor(show) {
    this.show = show;
    this.wanted = null;
    this.busy = false;
  }

  /** Ask for a picture; `show(bitmap, tag)` is called unless another one was asked for meanwhile. */
  want(url, tag) {
    this.wanted = { url, tag };
    if (!this.busy) this.run();
  }

  async run() {
    this.busy = true;
    while (this.wanted) {
      const { url, tag } = this.wanted;
      this.wanted = null;
      try {
        const bitmap = await picture(url);
        if (bitmap) this.show(bitmap, tag);
      } catch (error) {
        this.failed?.(error);
      }
    }
    this.busy = false;
  }
}

/** A picture, decoded; null if the server says that nobody waits for it. */
export async function picture(url, options) {
  const answer = await ask(url, options);
  if (answer.status === 204) return null;
  return createImageBitmap(await answer.blob());
}
