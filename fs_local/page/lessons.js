// Lessons: a table of examples that can be edited, taken in and out, and fitted.

import * as api from "./api.js";
import { at, loadLessons } from "./correct.js";
import { button, download, h, openDialog, redraw, tell } from "./dom.js";
import { progress, result, startFit } from "./fits.js";
import { on, remember, state } from "./state.js";
import { tryOut } from "./try_out.js";

const KINDS = { pair: "pair", ir: "steer", general: "leave" };
const HOW = {
  usual: "Usual: other queries come with the product",
  quick: "Quick: from these rows alone, so it opens for more",
  thorough: "Thorough: tries many blocks, several times as long",
};
let shown = null; // the lesson on the screen, with its rows
const tried = tryOut(); // made once: what was typed into it stays

async function open(name) {
  try {
    shown = await api.get(`${at(name)}/rows`);
    state.lesson = name;
    remember();
  } catch (error) {
    shown = null;
    tell(error.message);
  }
  show();
}

async function done(promise) {
  try {
    const lesson = await promise;
    if (lesson.rows) shown = lesson;
  } catch (error) { tell(error.message); }
  await loadLessons();
}

function rowDialog(row) {
  const text = row.messages.at(-1)?.content ?? "";
  const field = (id, label, value, rows) => [h("label", { for: id }, label), h("textarea", { id, rows, value })];
  const kind = h("select", { id: "row-kind" }, Object.entries({ pair: "Pair: a better and a worse answer", ir: "Steer such queries", general: "Leave such queries alone" })
    .map(([value, label]) => h("option", { value, selected: value === row.kind }, label)));
  const answers = h("div", {}, field("row-preferred", "Preferred answer", row.preferred[0] ?? "", 3), field("row-undesired", "Undesired answer", row.undesired[0] ?? "", 3));
  const toggle = () => { answers.hidden = kind.value !== "pair"; };
  kind.addEventListener("change", toggle);
  toggle();
  const value = (id) => dialog.querySelector(`#${id}`).value.trim();
  const dialog = openDialog(row.id ? "Edit the row" : "New row", h("form", {
    onsubmit: (event) => {
      event.preventDefault();
      const rest = kind.value === "pair" ? {
        preferred: [value("row-preferred"), ...row.preferred.slice(1)], undesired: [value("row-undesired"), ...row.undesired.slice(1)],
      } : {};
      const body = { kind: kind.value, messages: [...row.messages.slice(0, -1), { role: "user", content: value("row-query") }], ...rest };
      dialog.close();
      done(row.id ? api.patch(`${at(shown.name)}/rows/${row.id}`, body) : api.post(`${at(shown.name)}/rows`, body));
    },
  }, h("label", { for: "row-kind" }, "Kind"), kind, field("row-query", "Query", text, 3), answers,
  row.messages.length > 1 ? h("p", { class: "hint" }, `After ${row.messages.length - 1} earlier messages, which stay.`) : null,
  h("button", { type: "submit", class: "primary" }, "Keep it")));
}

function table() {
  if (!shown.rows.length) return h("p", { class: "hint" }, "No rows yet. Correct an answer in the chat, import a file, or add a row.");
  return h("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": "Rows" }, h("table", { class: "rows" },
    h("thead", {}, h("tr", {}, ["Kind", "Query", "Preferred", "Undesired", "Change"].map((x) => h("th", { scope: "col" }, x)))),
    h("tbody", {}, shown.rows.map((row, i) => h("tr", {},
      h("td", {}, KINDS[row.kind]), h("td", {}, row.messages.at(-1).content),
      h("td", {}, row.preferred.join(" / ")), h("td", {}, row.undesired.join(" / ")),
      h("td", { class: "actions" }, button("Edit", () => rowDialog(row), { "aria-label": `Edit row ${i + 1}` }),
        button("Remove", () => done(api.remove(`${at(shown.name)}/rows/${row.id}`)), { "aria-label": `Remove row ${i + 1}` })))))));
}

function importer() {
  const kind = h("select", { id: "import-kind" }, h("option", { value: "" }, "as the file says"), Object.entries(KINDS).map(([value, label]) => h("option", { value }, label)));
  const file = h("input", { type: "file", id: "import-file", accept: ".jsonl,.json,.csv,.txt", required: true });
  return h("details", {}, h("summary", {}, "Import and export"), h("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      const [chosen] = file.files;
      if (chosen) done(api.post(`${at(shown.name)}/import`, { text: await chosen.text(), csv: chosen.name.endsWith(".csv"), kind: kind.value || null }));
    },
  }, h("label", { for: "import-file" }, "JSONL or CSV"), file, h("label", { for: "import-kind" }, "Rows are"), kind, h("button", { type: "submit" }, "Import")),
  button("Export as JSONL", async () => {
    try { download(await api.getText(`${at(shown.name)}/export`), `${shown.name}.jsonl`, "application/jsonl"); } catch (error) { tell(error.message); }
  }));
}

function fitting() {
  const how = h("select", { id: "how" }, Object.entries(HOW).map(([value, label]) => h("option", { value }, label)));
  const running = state.fit?.state === "running";
  return h("section", { "aria-label": "Fitting" },
    shown.contradictions.length ? h("ul", { class: "problem" }, shown.contradictions.map((x) => h("li", {}, x))) : null,
    shown.missing.length ? h("ul", { class: "hint" }, shown.missing.map((x) => h("li", {}, x))) : null,
    h("div", { class: "row" },
      button("Fit a pack from this lesson", async () => {
        try { await startFit(shown.name, how.value); } catch (error) { tell(error.message); }
      }, { class: "primary", id: "fit", disabled: !shown.can_fit || running }),
      h("label", { class: "how" }, "How ", how)));
}

function manage() {
  return h("div", { class: "actions" },
    button("Add a row", () => rowDialog({ kind: "pair", messages: [{ role: "user", content: "" }], preferred: [], undesired: [] })),
    button("Rename", () => naming("Rename the lesson", shown.name, async (name) => {
      await api.patch(at(shown.name), { name });
      await open(name);
    })),
    button("Delete", () => {
      const dialog = openDialog("Delete the lesson?", h("p", {}, `${shown.name}, with ${shown.rows.length} rows. Packs that were fitted from it stay.`),
        button("Delete it for good", () => { dialog.close(); const name = shown.name; shown = null; done(api.remove(at(name))); }, { class: "danger" }));
    }));
}

function naming(title, value, then) {
  const field = h("input", { id: "lesson-name", maxlength: 200, required: true, value });
  const dialog = openDialog(title, h("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      dialog.close();
      try { await then(field.value.trim()); } catch (error) { tell(error.message); }
      await loadLessons();
    },
  }, h("label", { for: "lesson-name" }, "Name"), field, h("button", { type: "submit", class: "primary" }, "Keep it")));
  field.select();
}

const followed = h("div"); // drawn at every step of a fit, without what stands around it

function show() {
  const view = document.getElementById("lessons-view");
  redraw(view,
    h("aside", { "aria-label": "All lessons" }, h("h2", {}, "Lessons"),
      button("New lesson", () => naming("New lesson", "", async (name) => { await api.post("/v1/page/lessons", { name }); await open(name); }), { class: "primary" }),
      h("ul", { class: "plain" }, state.lessons.map((l) => h("li", {}, button(`${l.name} (${l.pair + l.ir + l.general})`, () => open(l.name), { class: "title", "aria-current": shown?.name === l.name ? "true" : null }))))),
    h("div", { class: "lesson" }, ...(shown
      ? [h("h2", {}, shown.name), manage(), fitting(), followed, table(), importer(), tried]
      : [h("p", { class: "hint" }, "A lesson is a set of corrections with a name. Choose one, begin one, or correct an answer in the chat."), tried])));
  showFit();
}

function showFit() {
  if (shown) followed.replaceChildren(...[progress(shown.name), result(shown.name)].filter(Boolean));
  const fit = document.getElementById("fit");
  if (fit) fit.disabled = !shown.can_fit || state.fit?.state === "running";
}

export async function enter() {
  await loadLessons();
  const name = state.fit?.state === "running" ? state.fit.lesson : state.lesson;
  if (state.lessons.some((l) => l.name === name)) await open(name);
  else show();
}

on("lessons", show);
on("fit", showFit);
