// The page: the chosen models, the running requests, and their display.

import { Column } from "./answers.js";
import { Refusal, keepKey, key, models } from "./client.js";
import { byId, make, offer } from "./elements.js";
import { facts, scores } from "./evidence.js";
import { front } from "./front.js";
import { forget, lacking, run } from "./tasks.js";

let cards = [];
let running = null; // AbortController of the running answers
let drawn = 0; // width of the fronts

function task() {
  return document.querySelector("[name=task]:checked").value;
}

/** Cards of the chosen models, one or two. */
function chosen() {
  const names = [...new Set([byId("model").value, byId("other").value])].filter(Boolean);
  return names.map((name) => cards.find((card) => card.id === name)).filter(Boolean);
}

function tell(text) {
  byId("status").textContent = text;
}

async function refresh() {
  try {
    cards = await models();
    byId("trouble").replaceChildren();
  } catch (error) {
    byId("trouble").replaceChildren(make("p", { class: "warning" }, sentence(error)));
    if (error.status === 401) {
      cards = [];
      askForKey();
    }
  }
  const named = cards.map((card) => [card.id, card.version === card.id ? card.id : `${card.id} (${card.version})`]);
  offer(byId("model"), named);
  offer(byId("other"), [["", "nothing"], ...named]);
  choose();
}

function askForKey() {
  byId("access").open = true;
  byId("key").focus();
}

/** After a change of models: update their tasks and details. */
function choose() {
  const [first] = chosen();
  byId("send").disabled = !first || running !== null;
  if (!first) {
    for (const id of ["facts", "measured", "fronts"]) byId(id).replaceChildren();
    byId("searched").hidden = true;
    return;
  }
  const names = first.details.names ?? {};
  byId("languages").replaceChildren(...Object.entries(names).map(([code, name]) => make("option", { value: name }, code)));
  preset(first.details);
  const suites = (first.details.suites ?? []).map((suite) => [suite.name, `${suite.name} (${suite.labels.join(", ")})`]);
  offer(byId("suite"), [...suites, ["", "custom labels"]]);
  const { context } = first.details;
  offer(byId("context"), [["", "model default"], ["none", "none"], ...(context ? [[context.name, context.name]] : [])]);
  arrange();
  byId("facts").replaceChildren(...facts(chosen()));
  byId("measured").replaceChildren(...scores(chosen()));
  drawFronts();
}

/** From an old language into a new one, unless the fields are filled. */
function preset({ languages = {}, names = {} }) {
  const [old] = languages.L1 ?? [];
  const [fresh] = languages.L2 ?? [];
  if (!byId("source").value && old) byId("source").value = names[old] ?? old;
  if (!byId("target").value && fresh) byId("target").value = names[fresh] ?? fresh;
}

/** Show only the fields of the task. */
function arrange() {
  for (const part of document.querySelectorAll("[data-tasks]")) {
    part.hidden = !part.dataset.tasks.split(" ").includes(task());
  }
  byId("own").hidden = byId("suite").value !== "";
  const slots = slotsOfQuestion();
  const present = [...byId("slots").querySelectorAll("textarea")];
  if (present.map((field) => field.dataset.slot).join() === slots.join()) return;
  byId("slots").replaceChildren(...slots.map((slot) => make("div", { class: "field" },
    make("label", { for: `slot-${slot}` }, `${slot[0].toUpperCase()}${slot.slice(1)} to classify`),
    make("textarea", { id: `slot-${slot}`, rows: 3, dir: "auto", "data-slot": slot }))));
}

function slotsOfQuestion() {
  const suite = chosen()[0]?.details.suites?.find(({ name }) => name === byId("suite").value);
  const own = [...byId("prompt").value.matchAll(/\{([a-z_]+)\}/g)].map((found) => found[1]);
  return suite?.slots ?? (own.length ? [...new Set(own)] : ["text"]);
}

function drawFronts() {
  const found = chosen().filter((card) => card.details.search?.front.length);
  byId("searched").hidden = !found.length;
  drawn = byId("fronts").clientWidth;
  byId("fronts").replaceChildren(...found.flatMap((card) => [
    found.length > 1 ? make("h3", {}, card.id) : null, ...front(card, drawn),
  ]).filter(Boolean));
}

function sentence(error) {
  if (error.name === "AbortError") return "stopped";
  if (error instanceof Refusal) return error.message;
  console.error(error);
  return "the page failed; see the browser console";
}

async function send() {
  if (running !== null || byId("send").disabled) return;
  const missing = lacking(task());
  if (missing) {
    tell(missing);
    return;
  }
  running = new AbortController();
  const { signal } = running;
  const columns = chosen().map((card, k) => new Column(card.id, k === 1));
  byId("answers").replaceChildren(...columns.map((column) => column.node));
  byId("send").disabled = true;
  byId("stop").disabled = false;
  tell("answering …");
  const now = task();
  const ends = await Promise.all(columns.map((column) => answered(now, column, signal)));
  running = null;
  byId("stop").disabled = true;
  tell(signal.aborted ? "stopped" : ends.every(Boolean) ? "done" : "finished with an error");
  await refresh(); // a version has more details after its first request
}

/** Return true if the model answered; an error is shown in its column. */
async function answered(now, column, signal) {
  try {
    await run(now, column, signal);
    column.end();
    return true;
  } catch (error) {
    column.end(sentence(error));
    if (error.status === 401) askForKey();
    return false;
  }
}

function swap() {
  const [source, target] = [byId("source"), byId("target")];
  [source.value, target.value] = [target.value, source.value];
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(byId("key").value.trim());
  refresh();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
  if (event.key === "Escape") running?.abort();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("swap").addEventListener("click", swap);
byId("keep").addEventListener("change", forget);
for (const id of ["model", "other"]) byId(id).addEventListener("change", choose);
for (const id of ["suite", "prompt"]) byId(id).addEventListener("input", arrange);
for (const field of document.querySelectorAll("[name=task]")) field.addEventListener("change", arrange);
new ResizeObserver(() => {
  if (byId("fronts").clientWidth !== drawn) drawFronts(); // main also grows in height, with every answer
}).observe(document.querySelector("main"));
byId("key").value = key();
refresh();
