// Nodes from data. Texts become text nodes and never markup, whatever they contain.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element; children are nodes or texts, null is ignored. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** A list of choices, [value, text] each; the choice is kept if it still exists, otherwise the first is chosen. */
export function offer(select, choices) {
  const before = select.options.length ? select.value : null;
  select.replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
  if (choices.some(([value]) => value === before)) select.value = before;
}

/** "0.874 [0.835, 0.912]" as nodes; a dash if nothing was measured. */
export function withInterval(score, digits = 3) {
  if (!score || !Number.isFinite(score.value)) return ["–"];
  const bounds = [score.low, score.high];
  if (!bounds.every(Number.isFinite)) return [score.value.toFixed(digits)];
  return [score.value.toFixed(digits), " ", make("small", {}, `[${bounds.map((x) => x.toFixed(digits)).join(", ")}]`)];
}

/** The table in its container; below `width` rem each row is a card of named values, as in theme.css. */
export function fitted(table, width) {
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  for (const row of [...table.tBodies].flatMap((body) => [...body.rows])) {
    [...row.cells].forEach((cell, k) => (cell.dataset.label = names[k]));
  }
  table.classList.add(`cards-${20 + 6 * Math.max(0, Math.ceil((width - 20) / 6))}`);
  return make("div", { class: "wide" }, table);
}
