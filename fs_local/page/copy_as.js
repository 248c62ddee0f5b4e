// The same request for other programs.

import { button, h, openDialog, say } from "./dom.js";
import { request, state, steering } from "./state.js";

export function copyAs(index) {
  const { packs } = steering();
  const body = request(state.current.messages.slice(0, index + 1), { steering: { packs } });
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const { steering: own, ...openai } = body;
  const forms = {
    curl: `curl ${location.origin}/v1/chat/completions -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(body))}`,
    openai: [
      "import json",
      "from openai import OpenAI",
      "",
      `client = OpenAI(base_url=${JSON.stringify(`${location.origin}/v1`)}, api_key="-")`,
      `request = json.loads(${JSON.stringify(JSON.stringify(openai))})`,
      `steering = json.loads(${JSON.stringify(JSON.stringify(own))})`,
      'answer = client.chat.completions.create(**request, extra_body={"steering": steering})',
      "print(answer.choices[0].message.content)",
    ].join("\n"),
    "fs-local": `fs-local generate ${quoted(state.model)}${Object.entries(packs).map(([name, use]) => (use.enabled === false ? "" : ` --pack ${quoted(`${name}.fspack`)}`)).join("")} ${quoted(state.current.messages[index].content)}`,
  };
  openDialog("Copy as", ...Object.entries(forms).map(([name, text]) => h("section", {},
    h("h3", {}, name), h("pre", { tabindex: 0 }, text),
    button(`Copy as ${name}`, async () => {
      try { await navigator.clipboard.writeText(text); say("Copied."); } catch { say("The browser did not allow it; mark the text and copy it."); }
    }))));
}
