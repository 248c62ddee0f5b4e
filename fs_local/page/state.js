// What the page knows, in one place. Whoever changes it says so by `changed`, and those who show that part are told.

export const state = {
  model: "",
  isOwner: true, // whether conversations and lessons may be kept by the server
  packs: [], // as /v1/page/packs gives them
  kept: [], // names of packs of earlier servers
  use: {}, // pack -> {enabled, strength}: what the next request says
  settings: { system: "", temperature: 0, max_tokens: 512 },
  conversations: [],
  current: null, // {id, title, version, messages}; without an id it is not kept yet
  answering: null, // {index, abort}: the answer under way
  lessons: [],
  lesson: "corrections", // where corrections go
};

const listeners = {};

export function on(part, listener) {
  (listeners[part] ??= []).push(listener);
}

export function changed(...parts) {
  for (const part of parts) for (const listener of listeners[part] ?? []) listener();
}

// Switches, strengths and settings are this browser's; all else is the server's.
const STORED = "fs-local settings";

export function remember() {
  try {
    localStorage.setItem(STORED, JSON.stringify({ use: state.use, settings: state.settings, lesson: state.lesson }));
  } catch { /* a full or forbidden store: the settings last as long as the tab */ }
}

export function recall() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORED) ?? "{}");
    Object.assign(state.use, stored.use);
    Object.assign(state.settings, stored.settings);
    if (typeof stored.lesson === "string" && stored.lesson) state.lesson = stored.lesson;
  } catch { /* what an older page left */ }
}

export function useOf(pack) {
  const own = state.use[pack.name] ?? {};
  return { enabled: pack.enabled && own.enabled !== false, strength: Number.isFinite(own.strength) ? own.strength : pack.strength };
}

export function steering() {
  const packs = {};
  for (const pack of state.packs) {
    const use = useOf(pack);
    packs[pack.name] = use.enabled ? { strength: use.strength } : { enabled: false };
  }
  return { packs, explain: "full" };
}

export function request(messages, more = {}) {
  const system = state.settings.system.trim();
  const sent = messages.map(({ role, content }) => ({ role, content }));
  return {
    model: state.model,
    messages: system ? [{ role: "system", content: system }, ...sent] : sent,
    temperature: state.settings.temperature,
    max_tokens: state.settings.max_tokens,
    ...more,
  };
}
