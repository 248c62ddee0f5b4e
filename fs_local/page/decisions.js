// What the gates made of a query: a meter a pack, and why.

import { button, h, openDialog } from "./dom.js";
import { state } from "./state.js";

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

const margin = (d) => (d.margin === undefined ? "" : `, margin ${d.margin >= 0 ? "+" : "−"}${Math.abs(d.margin).toFixed(2)}`);

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
    h("h3", {}, "Experts, and the training queries they are about"),
    d.weights && pack ? experts(d.weights, pack.experts) : h("p", { class: "hint" }, "Not known for this answer."));
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
