// One model's answer, in a separate column.

import { make } from "./elements.js";

export class Column {
  constructor(model, second) {
    this.model = model;
    this.started = performance.now();
    this.first = null;
    this.tokens = null;
    this.notes = [];
    this.stands = make("span", { class: "soft" });
    this.body = make("div");
    this.foot = make("footer");
    const title = make("h3", {}, model, " ", this.stands);
    this.node = make("article", { class: second ? "answer second" : "answer", "aria-busy": "true" });
    this.node.append(title, this.body, this.foot);
  }

  /** The exact model that answers. */
  version(id) {
    if (id && id !== this.model) this.stands.textContent = id;
  }

  /** An earlier turn of the conversation. */
  turn({ role, content }) {
    this.body.append(make("p", { class: role === "user" ? "said asked" : "said", dir: "auto" }, content));
  }

  /** A text node that grows. */
  say() {
    const text = document.createTextNode("");
    this.body.append(make("p", { class: "said", dir: "auto" }, text));
    return text;
  }

  show(node) {
    this.body.append(node);
  }

  note(text) {
    this.notes.push(text);
  }

  began() {
    this.first ??= performance.now();
  }

  count(tokens) {
    this.tokens = tokens;
  }

  /** The end, good or bad: `wrong` is an error sentence. */
  end(wrong) {
    const seconds = (performance.now() - this.started) / 1000;
    const told = [...this.notes];
    if (this.tokens !== null) told.push(`${this.tokens} tokens`);
    if (this.first !== null) told.push(`first after ${((this.first - this.started) / 1000).toFixed(2)} s`);
    told.push(`${seconds.toFixed(2)} s`);
    this.foot.textContent = told.join(" · ");
    if (wrong) this.body.append(make("p", { class: "warning", role: "alert" }, wrong));
    this.node.setAttribute("aria-busy", "false");
  }
}
