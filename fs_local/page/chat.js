// Asking: a query is sent, its answer streams in, alone or beside the unsteered one, until it ends or is stopped.

import * as api from "./api.js";
import { say, tell } from "./dom.js";
import { save } from "./conversations.js";
import { Live } from "./live.js";
import { changed, request, state, steering } from "./state.js";

export async function ask(text, both) {
  const messages = state.current.messages;
  messages.push({ role: "user", content: text });
  changed("messages");
  await answer(messages.length, both);
}

export function stop() {
  state.answering?.abort.abort();
}

// Answers the query before `index` again: what came after it goes.
export async function again(index, both) {
  const messages = state.current.messages;
  messages.length = index;
  changed("messages", "turns");
  await answer(index, both);
}

// Puts another text in a query's place, and answers it: what came after it goes.
export async function edited(index, text, both) {
  const messages = state.current.messages;
  messages.length = index;
  await ask(text, both);
}

export function chooseSide(index, side) {
  const message = state.current.messages[index];
  if (side === "unsteered") message.content = message.other;
  delete message.other;
  save();
  changed("messages");
  say(`The conversation goes on from the ${side} answer.`);
  document.getElementById("query").focus();
}

async function answer(index, both) {
  const conversation = state.current;
  const query = conversation.messages[index - 1];
  const message = { role: "assistant", content: "" };
  if (both) message.other = "";
  const abort = new AbortController();
  const sent = request(conversation.messages.slice(0, index), { stream: true, steering: steering() });
  conversation.messages.push(message);
  state.answering = { index, abort };
  changed("messages", "answering");
  const live = new Live(index, message);
  say("Answering…");
  try {
    await (both ? compared : streamed)(sent, abort, query, message, live);
    say("The answer is whole.");
  } catch (error) {
    message.stopped = true;
    if (error.name !== "AbortError") { message.problem = error.message; tell(error.message); } else say("Stopped.");
  }
  live.end();
  state.answering = null;
  if (!message.content && message.problem && !message.other) {
    conversation.messages.length = index; // nothing came: the query stays, to be sent again
    query.unanswered = true;
  } else delete query.unanswered;
  await save(conversation);
  changed("messages", "answering", "turns");
}

async function streamed(sent, abort, query, message, live) {
  for await (const event of api.events("/v1/chat/completions", sent, abort.signal)) {
    decided(event, query);
    message.content += event.choices[0]?.delta.content ?? "";
    if (event.choices[0]?.finish_reason === "length") message.cut = true;
    live.changed();
  }
}

// Where every gate is closed, both sides are the same answer, and one is shown.
async function compared(sent, abort, query, message, live) {
  for await (const event of api.events("/v1/steering/compare", sent, abort.signal)) {
    decided(event, query);
    if (event.steering && !event.steering.applied) message.same = true;
    if (event.side === "steered") message.content += event.delta;
    else message.other += event.delta;
    live.changed();
  }
  if (message.same && message.content === message.other) delete message.other;
  else delete message.same;
}

function decided(event, query) {
  if (!event.steering) return;
  query.decisions = event.steering.decisions;
  changed("turns", "decisions");
}
