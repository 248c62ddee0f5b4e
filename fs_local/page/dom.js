// Builds elements. Texts become text nodes: nothing that a model, a pack or a file says is ever read as HTML here.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const button = (text, onclick, attributes = {}) => h("button", { type: "button", onclick, ...attributes }, text);

// Draws a part anew, with the focus on the control that has the same name as the one that had it.
export function redraw(part, ...children) {
  const old = document.activeElement !== part && part.contains(document.activeElement) ? document.activeElement : null;
  const article = old?.closest("article[id]")?.id;
  part.replaceChildren(...children);
  if (!old || document.activeElement === old) return;
  const name = (element) => element.id || element.getAttribute("aria-label") || element.textContent;
  const within = (article && document.getElementById(article)) || part;
  const controls = [...within.querySelectorAll("button, input, select, textarea, summary, [tabindex]")];
  (controls.find((element) => name(element) === name(old)) ?? controls[0] ?? part).focus({ preventScroll: true });
}

const TAGS = new Set("P BR EM STRONG S CODE PRE UL OL LI BLOCKQUOTE H1 H2 H3 H4 H5 H6 HR A TABLE THEAD TBODY TR TH TD".split(" "));

// The server's Markdown is HTML already without anything of the model's in it; only these elements are taken all the same.
export function fromMarkdown(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html");
  const fragment = document.createDocumentFragment();
  for (const node of parsed.body.childNodes) fragment.append(copied(node));
  return fragment;
}

function copied(node) {
  if (node.nodeType === Node.TEXT_NODE) return document.createTextNode(node.data);
  if (node.nodeType !== Node.ELEMENT_NODE) return "";
  if (!TAGS.has(node.tagName)) return document.createTextNode(node.textContent);
  // headings of an answer stand below those of the page
  const heading = /^H([1-6])$/.exec(node.tagName);
  const element = document.createElement(heading ? "p" : node.tagName);
  if (heading) element.className = "heading";
  if (node.tagName === "PRE" || node.tagName === "TABLE") element.tabIndex = 0;
  if (node.tagName === "A" && /^(https?|mailto):/i.test(node.getAttribute("href") ?? "")) {
    element.href = node.getAttribute("href");
    element.rel = "noopener noreferrer";
    element.target = "_blank";
  }
  element.append(...[...node.childNodes].map(copied));
  return element;
}

const notice = () => document.getElementById("notice");

export function tell(text) {
  notice().replaceChildren(h("span", {}, text), button("Close", () => { notice().hidden = true; }));
  notice().hidden = false;
}

export function say(text) {
  document.getElementById("status").textContent = text;
}

export function openDialog(title, ...children) {
  const dialog = document.getElementById("dialog");
  dialog.setAttribute("aria-label", title);
  dialog.replaceChildren(
    h("div", { class: "dialog-head" }, h("h2", {}, title), button("Close", () => dialog.close())),
    ...children,
  );
  if (!dialog.open) dialog.showModal();
  return dialog;
}

export function download(text, name, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
