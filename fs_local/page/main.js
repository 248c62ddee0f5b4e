// Begins: reads what there is, and ties the keyboard and the buttons to it.

import { ask, stop } from "./chat.js";
import { begin, loadConversations } from "./conversations.js";
import { loadLessons } from "./correct.js";
import { tell } from "./dom.js";
import { loadFit } from "./fits.js";
import "./messages.js";
import { loadPacks } from "./packs.js";
import { changed, on, recall, state } from "./state.js";

const $ = (id) => document.getElementById(id);
const query = $("query");

function send() {
  const text = query.value;
  if (!text.trim() || state.answering) return;
  query.value = "";
  $("notice").hidden = true;
  ask(text, $("both").checked);
}

$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
query.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.answering && !$("dialog").open) stop();
});
on("answering", () => {
  $("stop").hidden = !state.answering;
  $("send").hidden = Boolean(state.answering);
  if (!state.answering && document.activeElement === document.body) query.focus();
});

async function view(lessons) {
  $("chat-view").hidden = lessons;
  $("lessons-view").hidden = !lessons;
  $("show-chat").setAttribute("aria-pressed", String(!lessons));
  $("show-lessons").setAttribute("aria-pressed", String(lessons));
  document.body.classList.toggle("in-lessons", lessons);
  if (!lessons) return;
  try {
    const { enter } = await import("./lessons.js"); // not wanted at the beginning
    await enter();
  } catch (error) { tell(error.message); }
}

$("show-chat").addEventListener("click", () => view(false));
$("show-lessons").addEventListener("click", () => view(true));
for (const panel of ["conversations", "packs"]) {
  const toggle = $(`toggle-${panel}`);
  toggle.addEventListener("click", () => {
    const open = $(panel).classList.toggle("open");
    toggle.setAttribute("aria-expanded", String(open));
  });
}

async function start() {
  recall();
  begin();
  try {
    await loadPacks();
    performance.mark("interactive"); // a query can be sent
    if (state.isOwner) await Promise.all([loadConversations(), loadLessons(), loadFit()]);
    changed("messages", "conversations");
  } catch (error) { tell(error.message); }
  document.documentElement.dataset.ready = "yes";
}

start();
