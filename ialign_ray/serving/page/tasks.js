// The request of each task, and the display of its answer.

import { ask, stream } from "./client.js";
import { byId, make } from "./elements.js";

const turns = new Map(); // model -> its conversation so far

/** The number in a field, or undefined if it is empty: the server's default then applies. */
function number(id) {
  const text = byId(id).value.trim();
  return text === "" ? undefined : Number(text);
}

function decoding() {
  return { temperature: number("temperature"), max_tokens: number("max-tokens"), seed: number("seed") };
}

/** The chosen context; undefined is the default of the model. */
function context() {
  return byId("context").value || undefined;
}

/** The examples that were in a prompt, in its order. */
function examples(column, used) {
  if (!used) return;
  const pairs = used.pairs.map((pair) => [pair.id, pair.source, pair.target]);
  const exemplars = used.exemplars.map(({ id, text, label }) => [
    id, typeof text === "string" ? text : Object.values(text).join("\n"), label,
  ]);
  const rows = [...pairs, ...exemplars].map(([id, text, answer]) => make("tr", {},
    make("td", { class: "soft" }, id), make("td", { dir: "auto" }, text), make("td", { dir: "auto" }, answer)));
  const table = make("table", { class: "examples" }, make("tbody", {}, ...rows));
  column.show(make("details", {}, make("summary", {}, `${rows.length} examples in the prompt`), table));
  if (used.name) column.note(`context ${used.name}`);
  if (used.dropped) column.note(`${used.dropped} examples did not fit`);
}

/** Forget all conversations. */
export function forget() {
  turns.clear();
}

/** The task's sentence about missing input, or null. */
export function lacking(task) {
  if (task === "chat") return byId("message").value.trim() ? null : "enter a message first";
  if (task === "translate") {
    if (!byId("source").value.trim() || !byId("target").value.trim()) return "choose both languages first";
    return byId("text").value.trim() ? null : "enter a text first";
  }
  const empty = [...byId("slots").querySelectorAll("textarea")].find((field) => !field.value.trim());
  return empty ? `enter the ${empty.dataset.slot} first` : null;
}

/** Asks one model; the answer grows in its column until the promise is kept. */
export function run(task, column, signal) {
  return { chat, translate, classify }[task](column, signal);
}

async function chat(column, signal) {
  const kept = byId("keep").checked;
  const before = kept ? (turns.get(column.model) ?? []) : [];
  const messages = [...before, { role: "user", content: byId("message").value }];
  if (kept) messages.forEach((turn) => column.turn(turn));
  const said = column.say();
  const body = { model: column.model, messages, context: context(), ...decoding() };
  const answer = await stream("v1/chat/completions", body, signal);
  column.version(answer.version);
  for await (const event of answer.events) {
    const choice = event.choices[0];
    examples(column, event.context);
    if (choice?.delta.content) {
      said.data += choice.delta.content;
      column.began();
    }
    if (choice?.finish_reason === "length") column.note("stopped at the maximum length");
    if (event.usage) column.count(event.usage.completion_tokens);
  }
  if (kept) turns.set(column.model, [...messages, { role: "assistant", content: said.data }]);
}

async function translate(column, signal) {
  const body = { source: byId("source").value, target: byId("target").value, texts: [byId("text").value] };
  body.context = context();
  const said = column.say();
  const { version, data } = await ask("v1/translate", { model: column.model, ...body, ...decoding() }, signal);
  column.version(version);
  said.data = data.data[0].text;
  examples(column, data.data[0].context);
  column.note(`${data.source} → ${data.target}`);
  if (data.data[0].finish_reason === "length") column.note("stopped at the maximum length");
  column.count(data.usage.completion_tokens);
}

function question() {
  const scorer = byId("scorer").value || undefined;
  if (byId("suite").value) return { suite: byId("suite").value, scorer };
  const labels = byId("labels").value.split(",").map((label) => label.trim());
  return { labels: labels.filter(Boolean), prompt: byId("prompt").value, scorer };
}

async function classify(column, signal) {
  const texts = [...byId("slots").querySelectorAll("textarea")].map((field) => [field.dataset.slot, field.value]);
  const body = { model: column.model, texts: [Object.fromEntries(texts)], context: context(), ...question() };
  const { version, data } = await ask("v1/classify", body, signal);
  column.version(version);
  column.show(shares(data.data[0]));
  examples(column, data.data[0].context);
  column.note(`scorer ${data.scorer}`);
}

/** Labels with their probabilities, likeliest first. */
function shares(found) {
  const rows = Object.entries(found.probabilities).sort((a, b) => b[1] - a[1]);
  return make("table", { class: "shares" }, make("tbody", {}, ...rows.map(([label, share]) => {
    const bar = make("div", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", share);
    const cells = [make("th", { scope: "row", dir: "auto" }, label), make("td", {}, bar)];
    const likeliest = label === found.label && "likeliest";
    return make("tr", { class: likeliest }, ...cells, make("td", {}, `${(share * 100).toFixed(1)} %`));
  })));
}
