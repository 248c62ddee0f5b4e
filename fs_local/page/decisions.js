// What the gates made of a query: a meter a pack, and why.

import { button, h, openDialog } from "./dom.js";
import { state, useOf } from "./state.js";

export function meters(message) {
  const decisions = message.decisions;
  if (!decisions) return null;
  if (!decisions.length) return h("p", { class: "hint" }, "No pack was asked: this is the model's own answer.");
  return h("ul", { class: "meters plain" }, decisions.map((d) => {
    const fill = h("span", { class: "fill" });
    fill.style.width = `${Math.round(100 * d.opening)}%`;
    const said = `${d.open ? "open" : "closed"}, opening ${d.opening.toFixed(2)}${margin(d)}`;
    return h("li", { class: d.open ? "open" : "closed" },
      h("span", { class: "name" }, d.pack),
      h("span", { class: "meter", role: "meter", "aria-label": `Opening of ${d.pack}`, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": d.opening.toFixed(2), "aria-valuetext": said }, fill),
      h("span", { class: "said" }, said),
      button("Why?", () => why(d), { "aria-label": `Why is ${d.pack} ${d.open ? "open" : "closed"}?` }));
  }));
}

// As high as the meters will be, so that nothing moves when they come.
export function awaited() {
  const packs = state.packs.filter((pack) => useOf(pack).enabled);
  return h("ul", { class: "meters plain awaited" }, packs.map((pack) => h("li", {},
    h("span", { class: "name" }, pack.name), h("span", { class: "meter" }), h("span", { class: "said" }, "deciding…"), h("button", { type: "button", disabled: true }, "Why?"))));
}

const signed = (x) => `${x >= 0 ? "+" : "−"}${Math.abs(x).toFixed(2)}`;
const margin = (d) => (d.margin === undefined ? "" : `, margin ${signed(d.margin)}`);

const READINGS = { last: "the last token", user_last: "the last token of your text", user_mean: "the mean over your text", mean: "the mean over the prompt" };

function why(d) {
  const pack = state.packs.find((p) => p.name === d.pack);
  const facts = [
    ["Opening", `${d.opening.toFixed(3)}: ${d.open ? "the gate is open" : "the gate is closed, and the answer is the model's own"}`],
    d.margin === undefined ? null : ["Margin", `${Math.abs(d.margin).toFixed(3)} ${d.margin >= 0 ? "beyond" : "short of"} where the gate begins to open`],
    ["Energy ratio", d.energy_ratio.toFixed(3)],
    ["Strength", d.strength.toFixed(2)],
    ["Steers after", `block ${d.layers.join(", ")}`],
    pack ? ["The gate reads", `${pack.readings.map((r) => READINGS[r] ?? r).join(", ")}, after block ${pack.gate_layers.join(", ")} (${pack.gate.kind})`] : null,
  ].filter(Boolean);
  openDialog(`Why ${d.pack} is ${d.open ? "open" : "closed"}`,
    h("dl", { class: "facts" }, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    carried(d.carried),
    h("h3", {}, "Experts, and the training queries they are about"),
    d.weights && pack ? experts(d.weights, pack.experts) : h("p", { class: "hint" }, "Not known for this answer."));
}

// What each reading at each block carried of a linear gate's margin: they add up to it.
function carried(parts) {
  if (!parts?.length) return "";
  const [layers, readings] = [[...new Set(parts.map((p) => p.layer))].sort((a, b) => a - b), [...new Set(parts.map((p) => p.reading))]];
  const sum = (some) => some.reduce((all, p) => all + p.part, 0);
  const cell = (some) => h("td", { class: sum(some) >= 0 ? "open" : "closed" }, signed(sum(some)));
  const row = (name, some) => h("tr", {}, h("th", { scope: "row" }, name), layers.map((layer) => cell(some.filter((p) => p.layer === layer))), cell(some));
  return h("section", {}, h("h3", {}, "What carried it"),
    h("p", { class: "hint" }, "Parts of the margin: above 0 they open the gate, below 0 they close it."),
    h("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": "What carried it" }, h("table", { class: "carried" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Reading"), layers.map((layer) => h("th", { scope: "col" }, `block ${layer}`)), h("th", { scope: "col" }, "together"))),
      h("tbody", {}, readings.map((reading) => row(READINGS[reading] ?? reading, parts.filter((p) => p.reading === reading))), row("together", parts)))));
}

function experts(weights, about) {
  const order = weights.map((weight, i) => ({ weight, i })).sort((a, b) => b.weight - a.weight);
  return h("ol", { class: "experts" }, order.map(({ weight, i }) => {
    const fill = h("span", { class: "fill" });
    fill.style.width = `${Math.round(100 * weight)}%`;
    const expert = about[i];
    return h("li", {}, h("div", {}, `Expert ${i + 1}: ${(100 * weight).toFixed(0)} %`, h("span", { class: "meter", "aria-hidden": "true" }, fill)),
      expert?.queries.length
        ? h("ul", {}, expert.queries.slice(0, 4).map((query) => h("li", {}, query)))
        : h("p", { class: "hint" }, "It doesn't say what it is about."));
  }));
}
