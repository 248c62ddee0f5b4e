// The conversations: kept by the server, listed here, each with the version that this tab knows.

import * as api from "./api.js";
import { button, download, h, openDialog, redraw, tell } from "./dom.js";
import { changed, on, state } from "./state.js";

const AT = "/v1/page/conversations";

export async function loadConversations() {
  state.conversations = (await api.get(AT)).data;
  changed("conversations");
}

export function begin() {
  if (state.answering) state.answering.abort.abort();
  state.current = { id: null, title: "", version: 0, messages: [] };
  changed("conversations", "messages", "turns");
  document.getElementById("query").focus();
}

export async function open(id) {
  try {
    if (state.answering) state.answering.abort.abort();
    state.current = await api.get(`${AT}/${id}`);
    changed("conversations", "messages", "turns");
  } catch (error) {
    tell(error.message);
    await loadConversations();
  }
}

let saving = Promise.resolve();

// Keeps the conversation as it stands; one that was changed in another tab becomes a copy of its own, so that nothing is lost.
export function save(conversation = state.current) {
  saving = saving.then(() => keep(conversation)).catch((error) => tell(`Not kept: ${error.message}`));
  return saving;
}

async function keep(conversation) {
  if (!state.isOwner) return; // it lasts as long as the tab
  const messages = conversation.messages;
  if (!conversation.title) conversation.title = titleOf(messages);
  if (conversation.id) {
    try {
      const { version } = await api.patch(`${AT}/${conversation.id}`, { version: conversation.version, title: conversation.title, messages });
      conversation.version = version;
    } catch (error) {
      if (error.status !== 409 && error.status !== 404) throw error;
      conversation.title = `${conversation.title} (copy)`.slice(0, 200);
      await create(conversation);
      tell("This conversation was changed or deleted in another tab; what you see here is kept as a copy.");
    }
  } else {
    await create(conversation);
  }
  await loadConversations();
}

async function create(conversation) {
  const { id, version } = await api.post(AT, { title: conversation.title, messages: conversation.messages });
  Object.assign(conversation, { id, version });
}

function titleOf(messages) {
  const text = messages.find((m) => m.role === "user")?.content.replace(/\s+/g, " ").trim() ?? "";
  return [...text].slice(0, 60).join("") || "Conversation";
}

function rename(kept) {
  const field = h("input", { id: "title", maxlength: 200, value: kept.title, required: true });
  const dialog = openDialog("Rename the conversation", h("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      dialog.close();
      try {
        const { version } = await api.patch(`${AT}/${kept.id}`, { version: kept.version, title: field.value.trim() || kept.title });
        if (state.current?.id === kept.id) Object.assign(state.current, { version, title: field.value.trim() || kept.title });
      } catch (error) { tell(error.message); }
      await loadConversations();
    },
  }, h("label", { for: "title" }, "Title"), field, h("button", { type: "submit", class: "primary" }, "Rename")));
  field.select();
}

function remove(kept) {
  const dialog = openDialog("Delete the conversation?", h("p", {}, kept.title), button("Delete it for good", async () => {
    dialog.close();
    try { await api.remove(`${AT}/${kept.id}`); } catch (error) { tell(error.message); }
    if (state.current?.id === kept.id) begin();
    await loadConversations();
  }, { class: "danger" }));
}

async function exported(kept, form) {
  try {
    const text = await api.getText(`${AT}/${kept.id}/export?form=${form}`);
    if (!text) tell("No answer of this conversation has a better one yet, so there are no pairs.");
    else download(text, `${kept.id}.${form === "json" ? "json" : "jsonl"}`, "application/json");
  } catch (error) { tell(error.message); }
}

function show() {
  const panel = document.getElementById("conversations");
  redraw(panel,
    h("h2", {}, "Conversations"),
    button("New conversation", begin, { id: "new-conversation", class: "primary" }),
    state.isOwner ? "" : h("p", { class: "hint" }, "Others use this server too, so this conversation is kept in this tab alone. Kept conversations, lessons and fits are for those who have the admin key."),
    state.isOwner ? "" : button("Use the admin key", async () => { if (await api.askedForKey()) location.reload(); }, { id: "use-admin-key" }),
    h("ul", { class: "plain" }, state.conversations.map((kept) => {
      const here = state.current?.id === kept.id;
      return h("li", { class: here ? "conversation here" : "conversation" },
        button(kept.title, () => open(kept.id), { class: "title", "aria-current": here ? "true" : null }),
        here ? h("div", { class: "actions" },
          button("Rename", () => rename(kept)),
          button("Delete", () => remove(kept)),
          button("JSON", () => exported(kept, "json"), { "aria-label": "Export as JSON" }),
          button("Pairs", () => exported(kept, "pairs"), { "aria-label": "Export the corrected answers as JSONL of pairs" })) : null);
    })));
}

on("conversations", show);
