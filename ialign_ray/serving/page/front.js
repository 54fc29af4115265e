// The front of the search that made a version: the forgetting that each gain costs.

import { draw, fitted, make, withInterval } from "./elements.js";

const WIDEST = 704;
const HEIGHT = 330;
const EDGE = { left: 56, right: 16, top: 12, bottom: 44 };

/** Chart, table and the reason of the choice, for one card with `details.search`. */
export function front(card, width) {
  const { search, run } = card.details;
  const why = search.why && make("p", {}, `${search.trial}: ${search.why}.`);
  return [chart(search, run, Math.min(width, WIDEST)), why, table(search, run)].filter(Boolean);
}

function settings(point) {
  return Object.entries(point).map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(", ");
}

function table({ front: rows, tolerance }, run) {
  const titles = ["point", "settings", "gain", "forgetting", `within ${tolerance ?? "the tolerance"}`];
  const head = make("tr", {}, ...titles.map((title, k) => make("th", { scope: "col", class: k === 1 && "left" }, title)));
  const lines = rows.map((row, k) => {
    const number = make("th", { scope: "row" }, String(k + 1));
    const mine = row.trial === run ? make("b", {}, " (this version)") : null;
    const name = make("td", { class: "left" }, make("code", {}, settings(row.point)), mine);
    const numbers = ["gain", "forgetting"].map((field) => make("td", {}, ...withInterval(score(row, field))));
    return make("tr", {}, number, name, ...numbers, make("td", {}, row.feasible ? "yes" : "no"));
  });
  return fitted(make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)), 50);
}

function score(row, field) {
  return { value: row[field], low: row[`${field}_low`], high: row[`${field}_high`] };
}

function chart({ front: rows, tolerance, against }, run, width) {
  const known = rows.filter((row) => Number.isFinite(row.gain) && Number.isFinite(row.forgetting));
  const x = axis(reach(known, "forgetting", [tolerance]), EDGE.left, width - EDGE.right, width < 500 ? 4 : 7);
  const y = axis(reach(known, "gain", [0]), HEIGHT - EDGE.bottom, EDGE.top, 5);
  const title = `Gain against forgetting for the ${rows.length} trials on the front; the table below has the numbers`;
  const picture = draw("svg", { class: "chart", width, height: HEIGHT, role: "img", "aria-label": title });
  picture.append(...ticks(x, y, width));
  const across = `forgetting, nats/token above the ${against ?? "base"}`;
  picture.append(
    draw("text", { x: width - EDGE.right, y: HEIGHT - 6, "text-anchor": "end", class: "soft" }, across),
    draw("text", { x: 14, y: EDGE.top, transform: `rotate(-90 14 ${EDGE.top})`, "text-anchor": "end", class: "soft" },
      "gain over the control, nats/token"),
  );
  if (Number.isFinite(tolerance)) {
    const at = x.place(tolerance);
    picture.append(
      draw("line", { x1: at, x2: at, y1: EDGE.top, y2: HEIGHT - EDGE.bottom, class: "limit" },
        draw("title", {}, `tolerance ${tolerance}`)));
  }
  known.forEach((row) => picture.append(...point(row, rows.indexOf(row) + 1, row.trial === run, x, y)));
  return picture;
}

function point(row, number, mine, x, y) {
  const [cx, cy] = [x.place(row.forgetting), y.place(row.gain)];
  const of = row.feasible ? "first" : "base";
  const flat = { x1: x.place(row.forgetting_low), x2: x.place(row.forgetting_high), y1: cy, y2: cy };
  const tall = { x1: cx, x2: cx, y1: y.place(row.gain_low), y2: y.place(row.gain_high) };
  const bars = [flat, tall].filter((ends) => Object.values(ends).every(Number.isFinite));
  return [
    ...bars.map((ends) => draw("line", { ...ends, class: `interval ${of}` })),
    mine ? draw("circle", { cx, cy, r: 9, class: "ring" }) : null,
    draw("circle", { cx, cy, r: 4.5, class: row.feasible ? of : `${of} hollow` }, draw("title", {}, settings(row.point))),
    draw("text", { x: cx + 9, y: cy - 9 }, String(number)),
  ].filter(Boolean);
}

/** [least, most] of a field with its intervals and some further values. */
function reach(rows, field, more) {
  const ends = rows.flatMap((row) => Object.values(score(row, field)));
  const known = [...ends, ...more].filter(Number.isFinite);
  return known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
}

/** A linear scale with round ticks. */
function axis([low, high], from, to, count) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((size) => size >= raw);
  const [start, end] = [Math.floor(low / step) * step, Math.ceil(high / step) * step || step];
  const steps = Array.from({ length: Math.round((end - start) / step) + 1 }, (_, k) => start + k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  return {
    place: (value) => from + ((value - start) / (end - start)) * (to - from),
    steps: steps.map((value) => [value, value.toFixed(digits)]),
  };
}

function ticks(x, y, width) {
  const floor = HEIGHT - EDGE.bottom;
  const across = x.steps.flatMap(([value, text]) => [
    draw("line", { x1: x.place(value), x2: x.place(value), y1: EDGE.top, y2: floor, class: "axis-line" }),
    draw("text", { x: x.place(value), y: floor + 16, "text-anchor": "middle" }, text),
  ]);
  const up = y.steps.flatMap(([value, text]) => [
    draw("line", { x1: EDGE.left, x2: width - EDGE.right, y1: y.place(value), y2: y.place(value), class: "axis-line" }),
    draw("text", { x: EDGE.left - 6, y: y.place(value) + 4, "text-anchor": "end" }, text),
  ]);
  return [...across, ...up];
}
