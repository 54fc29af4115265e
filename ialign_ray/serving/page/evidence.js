// Details of the chosen models from the registry: facts, and scores by language with their intervals.

import { draw, fitted, make, withInterval } from "./elements.js";

const COLOURS = ["first", "other"]; // of the two chosen models
const FACTS = [
  ["version", (card) => card.version],
  ["kind", (card) => card.kind],
  ["base", (card) => card.details.base],
  ["experiment", (card) => card.details.experiment],
  ["run", (card) => card.details.run],
  ["dose", (card) => card.details.dose],
  ["steps", (card) => card.details.steps],
  ["languages", (card) => spoken(card.details)],
];

function spoken({ languages = {}, names = {} }) {
  const groups = Object.entries(languages).filter(([, codes]) => codes.length);
  return groups.map(([group, codes]) => `${group}: ${codes.map((code) => names[code] ?? code).join(", ")}`).join("; ");
}

/** A table of facts, with a column for each model, and refused versions. */
export function facts(cards) {
  const rows = FACTS.map(([title, of]) => [title, cards.map((card) => of(card) || null)]);
  const known = rows.filter(([, values]) => values.some((value) => value !== null));
  const head = make("tr", {}, make("td"), ...cards.map((card, k) => make("th", { scope: "col" }, dot(COLOURS[k]), card.id)));
  const body = known.map(([title, values]) =>
    make("tr", {}, make("th", { scope: "row" }, title), ...values.map((value) => make("td", {}, value ?? "–"))));
  const table = make("table", { class: "facts" }, make("thead", {}, head), make("tbody", {}, ...body));
  const refused = cards.filter((card) => card.details.refused);
  const warnings = refused.map((card) => make("p", { class: "warning" }, `${card.id}: ${card.details.refused}`));
  return [fitted(table, 6 + 14 * cards.length), ...warnings];
}

/** A table of scores: of groups, then of every language, with the base that the version was measured with. */
export function scores(cards) {
  const told = cards.filter((card) => card.details.scores?.length);
  if (!told.length) return [make("p", { class: "soft" }, "No scores are registered for these models.")];
  const rows = collected(told);
  const columns = columnsOf(told, cards);
  const heads = columns.map(({ title, of }) => make("th", { scope: "col" }, dot(of), title));
  const [scope, n, intervals] = ["group or language", "n", "95 % intervals"].map((title) => make("th", { scope: "col" }, title));
  const suites = [...new Set(rows.map((row) => row.suite))];
  const bodies = suites.map((suite) => suiteBody(rows.filter((row) => row.suite === suite), columns));
  const head = make("thead", {}, make("tr", {}, scope, n, ...heads, intervals));
  const late = told.filter((card) => !card.details.by_language).map((card) => card.id);
  const hint = late.length ? `Languages of ${late.join(", ")} are shown after its first request.` : null;
  const table = fitted(make("table", { class: "scores" }, head, ...bodies), 26 + 9 * columns.length);
  return [table, hint && make("p", { class: "soft" }, hint)].filter(Boolean);
}

/** {key, title, of}: the bases, then the models; a base that is chosen too has its colour. */
function columnsOf(told, cards) {
  const bases = [...new Set(told.filter((card) => card.details.by_language).map((card) => card.details.base))];
  const place = (name) => cards.findIndex((card) => card.kind === "base" && card.details.base === name);
  return [
    ...bases.map((name) => ({
      key: `base ${name}`, title: bases.length > 1 ? `base ${name}` : "base", of: COLOURS[place(name)] ?? "base",
    })),
    ...told.map((card) => ({ key: `of ${card.id}`, title: card.id, of: COLOURS[cards.indexOf(card)] })),
  ];
}

/** One row for each suite, scope and n: scores on different test rows are not in one row. */
function collected(cards) {
  const rows = new Map();
  const add = (found, scope, title, values) => {
    const id = JSON.stringify([found.suite, scope, found.metric, found.n]);
    const row = rows.get(id) ?? { suite: found.suite, n: found.n, title, group: !scope.startsWith("language:") };
    rows.set(id, Object.assign(row, values));
    row.metric = found.title ? `${found.title}, ${found.lower_is_better ? "lower" : "higher"} is better` : found.metric;
  };
  for (const card of cards) {
    const { scores, by_group: groups, by_language: languages, base, names = {} } = card.details;
    const both = (found) => ({ [`of ${card.id}`]: found.version, [`base ${base}`]: found.base });
    for (const found of groups ?? []) add(found, found.scope, found.scope.replace("group:", ""), both(found));
    for (const found of groups ? [] : scores) {
      add(found, found.scope, found.scope.replace("group:", ""), { [`of ${card.id}`]: found });
    }
    for (const found of languages ?? []) {
      add(found, `language:${found.language}`, called(found.language, names), both(found));
    }
  }
  return [...rows.values()].sort((a, b) => b.group - a.group);
}

/** "jav" or the direction "ind-jav" in words. */
function called(language, names) {
  const codes = language.split("-");
  return codes.every((code) => names[code]) ? codes.map((code) => names[code]).join(" → ") : language;
}

function suiteBody(rows, columns) {
  const title = make("th", { scope: "rowgroup", colspan: columns.length + 3 }, rows[0].suite, " ");
  title.append(make("small", {}, rows.at(-1).metric));
  const measured = rows.flatMap((row) => columns.map(({ key }) => row[key]).filter(Boolean));
  const ends = measured.flatMap((score) => [score.value, score.low, score.high]).filter(Number.isFinite);
  const range = [Math.min(...ends), Math.max(...ends)];
  const lines = rows.map((row) => {
    const cells = columns.map(({ key }) => make("td", {}, ...withInterval(row[key])));
    const plot = make("td", {}, intervals(columns.map(({ key, of }) => [row[key], of]), range));
    return make("tr", { class: row.group && "group" }, make("th", { scope: "row" }, row.title),
      make("td", {}, String(row.n)), ...cells, plot);
  });
  return make("tbody", {}, make("tr", { class: "suite" }, title), ...lines);
}

const WIDTH = 130; // less than a card's column
const STEP = 7;

/** Points with intervals on the scale of the suite; the numbers next to them are the same. */
function intervals(found, [low, high]) {
  const x = (value) => 5 + ((value - low) / (high - low || 1)) * (WIDTH - 10);
  const plot = draw("svg", { width: WIDTH, height: found.length * STEP + 4, "aria-hidden": "true" });
  found.forEach(([score, of], k) => {
    if (!score || !Number.isFinite(score.value)) return;
    const y = k * STEP + 5;
    if (Number.isFinite(score.low) && Number.isFinite(score.high)) {
      plot.append(draw("line", { x1: x(score.low), x2: x(score.high), y1: y, y2: y, class: `interval ${of}` }));
    }
    plot.append(draw("circle", { cx: x(score.value), cy: y, r: 2.5, class: of }));
  });
  return plot;
}

function dot(colour) {
  return make("span", { class: `key ${colour}`, "aria-hidden": "true" });
}
