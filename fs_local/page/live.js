// The one answer that is being written: its texts grow at most sixty times a second, and nothing else is drawn again.

import { differing } from "./differing.js";
import { state } from "./state.js";

const DRAW_EVERY = 1000 / 60 - 1; // ms; some screens have more frames
const MARK_EVERY = 300; // ms; finding the words that differ takes longer than a frame in long answers

export class Live {
  constructor(index, message) {
    this.index = index;
    this.message = message;
    this.frame = 0;
    this.drawn = 0;
    this.marked = 0;
  }

  changed() {
    this.frame ||= requestAnimationFrame((now) => {
      this.frame = 0;
      if (now - this.drawn < DRAW_EVERY) { this.changed(); return; }
      this.drawn = now;
      this.draw();
    });
  }

  end() {
    cancelAnimationFrame(this.frame);
  }

  draw() {
    const { message } = this;
    const element = document.getElementById(`message-${this.index}`);
    if (!element || state.current.messages[this.index] !== message) return;
    const box = document.getElementById("messages");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
    const [steered, unsteered] = ["steered", "unsteered"].map((side) => element.querySelector(`[data-side=${side}]`));
    if (message.other !== undefined && !message.same && performance.now() - this.marked > MARK_EVERY) {
      this.marked = performance.now();
      const [one, other] = differing(message.content, message.other);
      steered.replaceChildren(...one);
      unsteered.replaceChildren(...other);
    } else if (message.other === undefined || message.same) {
      grow(steered, message.content);
      if (unsteered) unsteered.closest(".side").hidden = true;
    }
    if (atEnd) box.scrollTop = box.scrollHeight;
  }
}

function grow(element, text) {
  const node = element.firstChild;
  if (node?.nodeType === Node.TEXT_NODE && text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else element.replaceChildren(text);
}
