// What is shown before the first query.

import * as api from "./api.js";
import { button, h, tell } from "./dom.js";
import { loadLessons } from "./correct.js";
import { startFit } from "./fits.js";
import { state } from "./state.js";

export function welcome() {
  return h("section", { class: "welcome" },
    h("h2", {}, state.model || "fs-local"),
    h("p", {}, "Ask something: under each query you see which packs' gates opened, by how much, and why. ",
      state.isOwner ? "Where an answer is wrong, say what it should have said; each correction becomes a row of a lesson. " : "",
      state.isOwner ? "With two dozen rows, fit a pack from the lesson: from then on the model is steered on such queries, and stays bit for bit as it is on all others." : ""),
    state.packs.length || !state.isOwner ? null : button("Fit the demo pack (it refuses harmful requests)", demo, { class: "primary", id: "fit-demo" }));
}

async function demo() {
  try {
    const { name } = await api.post("/v1/page/demo", {});
    await loadLessons();
    await startFit(name, "usual");
    document.getElementById("show-lessons").click();
  } catch (error) { tell(error.message); }
}
