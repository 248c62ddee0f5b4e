// The conversation on the screen: queries with their meters, answers with what can be done with them.

import * as api from "./api.js";
import { again, chooseSide, edited } from "./chat.js";
import { correct, mark } from "./correct.js";
import { awaited, meters } from "./decisions.js";
import { differing } from "./differing.js";
import { button, fromMarkdown, h, openDialog, redraw } from "./dom.js";
import { changed, on, state } from "./state.js";
import { welcome } from "./welcome.js";

const both = () => document.getElementById("both").checked;
const rendered = new Map(); // an answer's text -> its Markdown as HTML

function query(message, index) {
  const actions = state.answering ? null : h("div", { class: "actions" },
    button("Edit", () => edit(message, index)),
    message.unanswered ? button("Send again", () => again(index + 1, both())) : null,
    state.isOwner ? button("Steer such queries", () => mark(index, "ir"), { title: "This should have been steered" }) : null,
    state.isOwner ? button("Leave such queries", () => mark(index, "general"), { title: "This should not have been steered" }) : null,
    button("Copy as…", async () => (await import("./copy_as.js")).copyAs(index)));
  return h("article", { class: "message user", id: `message-${index}`, "aria-label": "Your query" },
    h("div", { class: "text plain-text" }, message.content), h("div", { class: "decided" }, state.answering?.index === index + 1 && !message.decisions ? awaited() : meters(message)), actions);
}

function answer(message, index) {
  const live = state.answering?.index === index;
  const sides = message.other === undefined
    ? [h("div", { class: "side" }, text(message.content, "steered", live))]
    : compared(message, index, live);
  return h("article", { class: "message assistant", id: `message-${index}`, "aria-label": "Answer", "aria-busy": live ? "true" : null },
    message.same ? h("p", { class: "hint same" }, "Steered and unsteered: the same, bit for bit. Every gate is closed.") : null,
    h("div", { class: message.other === undefined ? "one" : "sides" }, sides),
    message.stopped ? h("p", { class: "hint" }, message.problem ? `Broken off: ${message.problem}` : "Stopped.") : null,
    message.cut ? h("p", { class: "hint" }, "It ends here because of the most tokens that an answer may have.") : null,
    message.better ? h("p", { class: "better" }, h("strong", {}, "Should have said: "), message.better) : null,
    live ? null : h("div", { class: "actions" },
      state.isOwner ? button("Should have said…", () => correct(index)) : null,
      button("Regenerate", () => again(index, both())),
      button("Compare", () => again(index, true), { title: "Answer again, steered and unsteered side by side" })));
}

function compared(message, index, live) {
  const [one, other] = live ? [[], []] : differing(message.content, message.other);
  return [["steered", one, "Steered"], ["unsteered", other, "Unsteered"]].map(([side, nodes, title]) =>
    h("div", { class: "side" },
      h("p", { class: "heading" }, title), h("div", { class: "text plain-text", "data-side": side }, nodes),
      live ? null : button("Continue from this one", () => chooseSide(index, side), { "aria-label": `Continue from this one (${side})` })));
}

function text(content, side, live) {
  const html = live ? undefined : rendered.get(content);
  if (html === undefined) return h("div", { class: "text plain-text", "data-side": side }, content);
  return h("div", { class: "text", "data-side": side }, fromMarkdown(html));
}

function edit(message, index) {
  const field = h("textarea", { id: "edited", rows: 6, value: message.content });
  const dialog = openDialog("Edit and send again", h("form", {
    onsubmit: (event) => {
      event.preventDefault();
      if (!field.value.trim()) return;
      dialog.close();
      edited(index, field.value, both());
    },
  }, h("label", { for: "edited" }, "Query (what came after it goes)"), field, h("button", { type: "submit", class: "primary" }, "Send")));
  field.focus();
}

function show() {
  const box = document.getElementById("messages");
  const messages = state.current?.messages ?? [];
  redraw(box, ...(messages.length ? messages.map((m, i) => (m.role === "user" ? query(m, i) : answer(m, i))) : [welcome()]));
  box.scrollTop = box.scrollHeight;
  render(messages);
}

// Asks for the Markdown of answers that are whole, once each.
async function render(messages) {
  const wanted = messages.filter((m, i) => m.role === "assistant" && m.content && !rendered.has(m.content) && state.answering?.index !== i && m.content.length <= 200_000);
  const texts = [...new Set(wanted.map((m) => m.content))].slice(-500);
  if (!texts.length) return;
  texts.forEach((content) => rendered.set(content, undefined));
  try {
    const { html } = await api.post("/v1/page/markdown", { texts });
    texts.forEach((content, i) => rendered.set(content, html[i]));
  } catch { return; } // they stay as plain text
  messages.forEach((message, i) => {
    const element = document.querySelector(`#message-${i} .one [data-side=steered]`);
    if (element && state.current.messages[i] === message && texts.includes(message.content)) element.replaceWith(text(message.content, "steered", false));
  });
}

function showDecisions() {
  (state.current?.messages ?? []).forEach((message, i) => {
    const place = document.querySelector(`#message-${i} .decided`);
    if (place && message.decisions && (!place.hasChildNodes() || place.querySelector(".awaited"))) place.replaceChildren(meters(message));
  });
}

on("messages", show);
on("decisions", showDecisions);
on("lessons", () => { if (!state.current?.messages.length) changed("messages"); });
