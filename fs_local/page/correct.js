// Corrections: each becomes a row of the lesson that is chosen.

import * as api from "./api.js";
import { button, h, openDialog, say, tell } from "./dom.js";
import { save } from "./conversations.js";
import { changed, remember, state } from "./state.js";

const OPENINGS = ["I'm sorry, but I can't help with that.", "I don't know.", "Sure, here is how: ", "In short: "];

export const at = (name) => `/v1/page/lessons/${encodeURIComponent(name)}`;

export async function loadLessons() {
  state.lessons = (await api.get("/v1/page/lessons")).data;
  changed("lessons");
}

export function lessonField(id) {
  return h("div", { class: "field" }, h("label", { for: id }, "Lesson"),
    h("input", { id, list: "lesson-names", value: state.lesson, maxlength: 200, required: true, autocomplete: "off" }),
    h("datalist", { id: "lesson-names" }, state.lessons.map((l) => h("option", { value: l.name }))));
}

export async function addRow(name, row) {
  if (!state.lessons.some((l) => l.name === name)) {
    try { await api.post("/v1/page/lessons", { name }); } catch (error) { if (!/already/.test(error.message)) throw error; }
  }
  const lesson = await api.post(`${at(name)}/rows`, row);
  state.lesson = name;
  remember();
  await loadLessons();
  const said = [...lesson.contradictions, ...lesson.missing].join(" ");
  say(`Kept in ${name}, row ${lesson.rows.length}. ${said}`);
  tell(`Kept in the lesson “${name}” (${lesson.rows.length === 1 ? "1 row" : `${lesson.rows.length} rows`}). ${said}`);
}

function before(index) {
  const system = state.settings.system.trim();
  const said = state.current.messages.slice(0, index).map(({ role, content }) => ({ role, content }));
  return system ? [{ role: "system", content: system }, ...said] : said;
}

// "This should have been steered" (ir), or should not (general).
export function mark(index, kind) {
  const dialog = openDialog(kind === "ir" ? "Steer such queries" : "Leave such queries alone", h("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      dialog.close();
      try { await addRow(field().value.trim(), { kind, messages: before(index + 1) }); } catch (error) { tell(error.message); }
    },
  }, h("p", {}, kind === "ir" ? "This query should have been steered." : "This query should not have been steered."),
  lessonField("lesson-of"), h("button", { type: "submit", class: "primary" }, "Keep it")));
  const field = () => dialog.querySelector("#lesson-of");
}

// "Should have said …": a pair of what was said and what should have been.
export function correct(index) {
  const message = state.current.messages[index];
  const field = h("textarea", { id: "better", rows: 6, required: true, value: message.better ?? "" });
  const dialog = openDialog("It should have said…", h("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      const better = field.value.trim();
      if (!better) return;
      dialog.close();
      try {
        await addRow(dialog.querySelector("#lesson-of").value.trim(), { kind: "pair", messages: before(index), preferred: [better], undesired: [message.content] });
        message.better = better;
        await save();
        changed("messages");
      } catch (error) { tell(error.message); }
    },
  }, h("label", { for: "better" }, "Better answer"), field,
  h("div", { class: "actions", role: "group", "aria-label": "Suggested openings" },
    OPENINGS.map((opening) => button(opening, () => { field.value = opening; field.focus(); })),
    button("The answer itself, to edit", () => { field.value = message.content; field.focus(); })),
  lessonField("lesson-of"), h("button", { type: "submit", class: "primary" }, "Keep it")));
  field.focus();
}

