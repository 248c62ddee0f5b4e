// The panel of packs: a switch, a strength, the gate over the conversation; and how answers are drawn.

import * as api from "./api.js";
import { button, h, redraw, say, tell } from "./dom.js";
import { changed, on, remember, state, useOf } from "./state.js";

export async function loadPacks() {
  const found = await api.get("/v1/page/packs");
  state.model = found.model;
  state.isOwner = found.is_owner;
  document.body.classList.toggle("a-guest", !found.is_owner);
  state.packs = found.packs;
  state.kept = found.kept;
  document.getElementById("model").textContent = found.model;
  document.title = `${found.model} · fs-local`;
  changed("packs");
}

function card(pack, number) {
  const use = useOf(pack);
  const id = `pack-${number}`;
  const most = Math.max(2, Math.ceil(2 * Math.abs(pack.fitted_strength)));
  const set = (values) => {
    state.use[pack.name] = { ...state.use[pack.name], ...values };
    remember();
  };
  const number_ = h("input", { type: "number", id: `${id}-number`, min: -100, max: 100, step: 0.1, value: round(use.strength), "aria-label": `Strength of ${pack.name}, as a number` });
  const slider = h("input", { type: "range", id: `${id}-slider`, min: 0, max: most, step: 0.05, value: use.strength, "aria-label": `Strength of ${pack.name}` });
  slider.addEventListener("input", () => { number_.value = round(slider.valueAsNumber); set({ strength: slider.valueAsNumber }); });
  number_.addEventListener("change", () => {
    const value = Math.min(100, Math.max(-100, number_.valueAsNumber));
    if (!Number.isFinite(value)) { number_.value = round(useOf(pack).strength); return; }
    number_.value = slider.value = value;
    set({ strength: value });
  });
  const onoff = h("input", { type: "checkbox", role: "switch", id, checked: use.enabled, disabled: !pack.enabled });
  onoff.addEventListener("change", () => { set({ enabled: onoff.checked }); say(`${pack.name} is ${onoff.checked ? "on" : "off"}`); });
  return h("li", { class: "pack" },
    h("label", { class: "switch", for: id }, onoff, h("span", { class: "name" }, pack.name)),
    pack.enabled ? null : h("p", { class: "hint" }, "Disabled on this server."),
    h("div", { class: "strength" }, h("span", { class: "hint" }, "strength"), slider, number_),
    h("p", { class: "hint" }, `fitted at ${round(pack.fitted_strength)}, steers after block ${pack.layers.join(", ")}`),
    timeline(pack.name));
}

const round = (x) => Math.round(x * 100) / 100;

// A bar for each query of the conversation: how far the gate opened.
function timeline(name) {
  const turns = (state.current?.messages ?? []).flatMap((message, index) => {
    const decision = message.decisions?.find((d) => d.pack === name);
    return decision ? [{ index, decision }] : [];
  });
  if (!turns.length) return null;
  return h("ol", { class: "timeline", "aria-label": `Openings of ${name} over the conversation` },
    turns.map(({ index, decision }, number) => {
      const bar = h("span", { class: decision.open ? "bar open" : "bar" });
      bar.style.height = `${Math.max(8, Math.round(100 * decision.opening))}%`;
      return h("li", {}, button(bar, () => document.getElementById(`message-${index}`)?.scrollIntoView(), {
        "aria-label": `Query ${number + 1}: ${decision.open ? "open" : "closed"}, opening ${decision.opening.toFixed(2)}`,
      }));
    }));
}

function settings() {
  const set = (name, value) => { state.settings[name] = value; remember(); };
  const number = (name, text, attributes) => h("label", {}, text,
    h("input", { type: "number", value: state.settings[name], ...attributes, onchange: (e) => {
      const value = e.target.valueAsNumber;
      if (e.target.checkValidity() && Number.isFinite(value)) set(name, value);
      else e.target.value = state.settings[name];
    } }));
  return h("details", { class: "settings" }, h("summary", {}, "How answers are drawn"),
    number("temperature", "Temperature (0 is greedy)", { min: 0, max: 2, step: 0.1 }),
    number("max_tokens", "Most tokens of an answer", { min: 1, max: 16384, step: 1 }),
    h("label", {}, "System message", h("textarea", { rows: 3, value: state.settings.system, onchange: (e) => set("system", e.target.value) })));
}

async function load(name) {
  try {
    await api.post("/v1/page/fits/load", { pack: name });
    await loadPacks();
  } catch (error) { tell(error.message); }
}

function show() {
  const panel = document.getElementById("packs");
  const open = panel.querySelector("details")?.open;
  redraw(panel,
    h("h2", {}, "Packs"),
    state.packs.length
      ? h("ul", { class: "plain" }, state.packs.map(card))
      : h("p", { class: "hint" }, "None yet: answers are the model's own. Correct some, and fit a pack under Lessons."),
    state.kept.length ? h("h3", {}, "Fitted before") : "",
    ...state.kept.map((name) => h("p", { class: "row" }, h("span", { class: "name" }, name), button("Load", () => load(name), { "aria-label": `Load ${name}` }))),
    settings());
  if (open) panel.querySelector("details").open = true;
}

on("packs", show);
on("turns", show);
