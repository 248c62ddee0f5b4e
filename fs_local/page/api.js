// All that is asked of the server. Errors are its own sentences.

import { button, h, openDialog } from "./dom.js";

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const KEY = "fs-local key";

async function request(method, path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server can't be reached. Is it running? What you wrote is still here.");
  }
  if (response.status === 401 && (await askedForKey())) return request(method, path, body, signal);
  if (!response.ok) {
    let message = `The server answered ${response.status}.`;
    try {
      const error = (await response.json()).error;
      message = error.message ?? error;
    } catch { /* no JSON: the status has to do */ }
    throw new ServerError(response.status, message);
  }
  return response;
}

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

// Resolves to whether one was given.
export function askedForKey() {
  return new Promise((resolve) => {
    const field = h("input", { id: "key", type: "password", autocomplete: "off" });
    const dialog = openDialog(
      "This server asks for a key",
      h("form", {
        onsubmit: (event) => {
          event.preventDefault();
          sessionStorage.setItem(KEY, field.value.trim());
          resolve(true);
          dialog.close();
        },
      }, h("label", { for: "key" }, "Key"), field, h("button", { type: "submit" }, "Use it")),
    );
    dialog.addEventListener("close", () => resolve(false), { once: true });
  });
}

export const get = async (path) => (await request("GET", path)).json();
export const getText = async (path) => (await request("GET", path)).text();
export const post = async (path, body, signal) => (await request("POST", path, body, signal)).json();
export const patch = async (path, body) => (await request("PATCH", path, body)).json();
export const remove = async (path) => (await request("DELETE", path)).json();

// Server-sent events, as objects, in the order in which they come.
export async function* events(path, body, signal) {
  const response = await request("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(0, "The connection broke before the answer was whole.");
    }
    if (read.done) throw new ServerError(0, "The connection ended before the answer was whole.");
    const lines = (rest + read.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(0, event.error.message);
      yield event;
    }
  }
}
