// Two texts with the words that only one of them has in <mark>.

import { h } from "./dom.js";

const MOST = 1200; // words a side; beyond, the rest is shown unmarked

export function differing(one, other) {
  const [a, b] = [words(one), words(other)];
  const common = longest(a.slice(0, MOST), b.slice(0, MOST));
  return [marked(a, common.a), marked(b, common.b)];
}

const words = (text) => text.match(/\s*\S+|\s+$/g) ?? [];

// Which words of each belong to the longest common run, in order.
function longest(a, b) {
  const rows = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      rows[i][j] = a[i].trim() === b[j].trim() ? rows[i + 1][j + 1] + 1 : Math.max(rows[i + 1][j], rows[i][j + 1]);
  const found = { a: new Set(), b: new Set() };
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i].trim() === b[j].trim()) { found.a.add(i++); found.b.add(j++); }
    else if (rows[i + 1][j] >= rows[i][j + 1]) i++;
    else j++;
  }
  return found;
}

function marked(all, common) {
  const nodes = [];
  let run = "", isMarked = false;
  const flush = () => { if (run) nodes.push(isMarked ? h("mark", {}, run) : document.createTextNode(run)); run = ""; };
  all.forEach((word, i) => {
    const differs = i < MOST && !common.has(i) && word.trim() !== "";
    if (differs !== isMarked) { flush(); isMarked = differs; }
    run += word;
  });
  flush();
  return nodes;
}
