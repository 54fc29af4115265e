// Search and sorting of a long table: a form with `data-finder` and the first table after it. A cell's `data-sort` is
// its number, empty without one; cells without it are sorted as text. Cards on narrow screens have no header row,
// so sorting is in the form too.
for (const form of document.querySelectorAll("[data-finder]")) {
  const table = form.nextElementSibling.querySelector("table");
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], rows = [...body.rows];
  const [search, column, descending] = ["search", "column", "descending"].map((name) => form.elements[name]);
  const count = form.querySelector("output");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const value = (row, k) => {
    const cell = row.cells[k], given = cell.dataset.sort;
    return given === undefined ? cell.textContent.trim() : given === "" ? null : Number(given);
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  function sort() {
    const k = Number(column.value), sign = descending.checked ? -1 : 1;
    // what has no value comes last in both directions
    const ordered = rows.map((row) => [row, value(row, k)]).sort(([, a], [, b]) =>
      a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b));
    body.append(...ordered.map(([row]) => row));
    heads.forEach((head, n) => n === k
      ? head.setAttribute("aria-sort", descending.checked ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
  }
  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length}`;
  }
  heads.forEach((head, k) => {
    column.append(new Option(head.textContent.trim(), k));
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => {
      descending.checked = Number(column.value) === k && head.hasAttribute("aria-sort") && !descending.checked;
      column.value = k;
      sort();
    });
    head.append(button);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", filter);
  column.addEventListener("change", sort);
  descending.addEventListener("change", sort);
  filter();
  form.hidden = false;
}
