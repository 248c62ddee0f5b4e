// A fit from a lesson: begun, followed, cancelled; and what came of it.

import * as api from "./api.js";
import { button, download, h, say, tell } from "./dom.js";
import { loadPacks } from "./packs.js";
import { changed, on, state } from "./state.js";

const EVERY = 700; // ms
let seen = {}; // stage -> when it was first seen, and how far it was

export async function startFit(lesson, how) {
  seen = {};
  state.fit = (await api.post("/v1/page/fits", { lesson, how })).fit;
  changed("fit");
  follow();
}

export async function loadFit() {
  state.fit = (await api.get("/v1/page/fits")).fit;
  changed("fit");
  if (state.fit?.state === "running") follow();
}

let following = false;

async function follow() {
  if (following) return;
  following = true;
  while (state.fit?.state === "running") {
    await new Promise((resolve) => setTimeout(resolve, EVERY));
    try { state.fit = (await api.get("/v1/page/fits")).fit; } catch { continue; } // a server that starts again is asked until it answers
    changed("fit");
  }
  following = false;
  if (state.fit?.state === "done") {
    say(`The pack ${state.fit.lesson} is fitted, and in use.`);
    delete state.use[state.fit.lesson];
    await loadPacks();
    changed("fit", "messages");
  } else if (state.fit) say(`The fit is ${state.fit.state}. ${state.fit.problem}`);
}

function left(name, done, total) {
  const now = performance.now();
  seen[name] ??= { at: now, done };
  const rate = (done - seen[name].done) / (now - seen[name].at);
  if (!(rate > 0) || done >= total) return "";
  const seconds = Math.ceil((total - done) / rate / 1000);
  return seconds >= 90 ? `about ${Math.round(seconds / 60)} min left` : `about ${seconds} s left`;
}

export function progress(lesson) {
  const fit = state.fit;
  if (!fit || fit.lesson !== lesson) return null;
  const seconds = Math.round((fit.ended ?? Date.now() / 1000) - fit.started);
  const said = {
    running: `Fitting from ${fit.rows} rows, ${seconds} s so far. Chats go on meanwhile.`,
    done: `Fitted from ${fit.rows} rows in ${seconds} s; the pack is in use.`,
    failed: fit.problem,
    cancelled: "Cancelled. What was read from the model is kept; another fit goes on from there.",
  }[fit.state];
  return h("section", { class: "fit", "aria-label": "Fit" },
    h("p", { class: fit.state === "failed" ? "problem" : "" }, said),
    fit.state === "running" ? h("ul", { class: "plain stages" }, Object.entries(fit.stages).map(([name, [done, total]]) =>
      h("li", {}, h("label", {}, h("span", {}, name), h("progress", { value: done, max: Math.max(total, 1) }), h("span", { class: "hint" }, `${done} of ${total} ${left(name, done, total)}`))))) : null,
    fit.notes.map((note) => h("p", { class: "hint" }, note)),
    fit.state === "running" ? button("Cancel the fit", async () => {
      try { state.fit = (await api.remove("/v1/page/fits")).fit; changed("fit"); } catch (error) { tell(error.message); }
    }) : null);
}

export function result(lesson) {
  const pack = state.packs.find((p) => p.name === lesson);
  if (!pack) return null;
  const { auroc, open_ir: ir, open_general: general } = pack.figures;
  const percent = (x) => (x === null ? "not measured" : `${(100 * x).toFixed(0)} %`);
  return h("section", { "aria-label": "The pack" }, h("h3", {}, "The pack in use"),
    h("dl", { class: "facts" },
      h("dt", {}, "Opens for its own queries"), h("dd", {}, percent(ir)),
      h("dt", {}, "Opens for other queries"), h("dd", {}, percent(general)),
      h("dt", {}, "Tells them apart (AUROC)"), h("dd", {}, auroc === null ? "not measured" : auroc.toFixed(3)),
      h("dt", {}, "Experts"), h("dd", {}, String(pack.experts.length))),
    auroc !== null && auroc < 0.8 ? h("p", { class: "problem" }, "The gate can't tell these queries from others well: add more pairs in other wordings, or fit in the usual way.") : null,
    h("div", { class: "actions" },
      pack.has_former ? button("Take the former pack back", () => restore(lesson)) : null,
      pack.has_report ? button("Show the report", (event) => report(lesson, event.target)) : null));
}

async function restore(pack) {
  try {
    await api.post("/v1/page/fits/restore", { pack });
    await loadPacks();
    changed("fit");
    say("The former pack is in use; this one is kept as the former.");
  } catch (error) { tell(error.message); }
}

async function report(pack, opener) {
  const at = `/v1/page/fits/report?pack=${encodeURIComponent(pack)}`;
  if (api.hasKey()) { // a frame shows no key
    try { download(await api.getText(at), `${pack}.html`, "text/html"); } catch (error) { tell(error.message); }
    return;
  }
  const frame = h("iframe", { title: `Report of ${pack}`, class: "report", sandbox: true, src: at });
  opener.closest("section").append(frame);
  opener.remove();
}

on("packs", () => changed("fit"));
