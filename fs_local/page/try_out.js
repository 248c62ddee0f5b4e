// A box of queries, and what the gates make of each.

import * as api from "./api.js";
import { h, tell } from "./dom.js";
import { state, steering } from "./state.js";

const MOST = 64; // what the server decides at once

export function tryOut() {
  const field = h("textarea", { id: "tried", rows: 5, placeholder: "One query a line" });
  const place = h("div", { "aria-live": "polite" });
  return h("section", { "aria-label": "Try it" }, h("h3", {}, "Try the gates"),
    h("form", {
      onsubmit: async (event) => {
        event.preventDefault();
        const input = field.value.split("\n").map((line) => line.trim()).filter(Boolean);
        if (!input.length) return;
        if (!state.packs.length) { place.replaceChildren(h("p", { class: "hint" }, "There are no packs to try yet.")); return; }
        place.replaceChildren(h("p", { class: "hint" }, `Deciding ${input.length}…`));
        try {
          const found = [];
          for (let i = 0; i < input.length; i += MOST)
            found.push(...(await api.post("/v1/steering/decide", { input: input.slice(i, i + MOST), steering: steering() })).data);
          place.replaceChildren(table(input, found));
        } catch (error) { place.replaceChildren(); tell(error.message); }
      },
    }, h("label", { for: "tried" }, "Queries"), field, h("button", { type: "submit" }, "Decide")), place);
}

function table(input, found) {
  const names = found[0].decisions.map((d) => d.pack);
  return h("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": "Decisions" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Query"), names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, found.map((one, i) => h("tr", {}, h("th", { scope: "row" }, input[i]),
      one.decisions.map((d) => h("td", { class: d.open ? "open" : "closed" }, `${d.open ? "open" : "closed"} ${d.opening.toFixed(2)}${d.margin === undefined ? "" : ` (${d.margin >= 0 ? "+" : "−"}${Math.abs(d.margin).toFixed(2)})`}`)))))));
}
