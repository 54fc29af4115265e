// What tests/looks.py asks of an open page; evaluates to an object of functions.
({
layout() {
  const faults = [], edge = document.documentElement.clientWidth + 1;
  const named = (e) => `${e.tagName.toLowerCase()}.${e.getAttribute("class") ?? ""}: ${e.textContent.trim().slice(0, 60)}`;
  if (document.documentElement.scrollWidth > edge) faults.push(`the document is ${document.documentElement.scrollWidth} wide`);
  const hidden = (e) => e.closest(".skip, datalist, option, script, style, noscript") || !e.checkVisibility({checkOpacity: false})
    || [...ancestors(e)].some((a) => getComputedStyle(a).clipPath !== "none");
  function* ancestors(e) { for (; e; e = e.parentElement) yield e; }
  for (const e of document.body.querySelectorAll("*:not(svg *)")) {
    if (hidden(e)) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (!box.width || !box.height) continue;
    if (box.right > edge || box.left < -1) faults.push(`outside the window: ${named(e)}`);
    let column = e.parentElement;
    while (["inline", "contents"].includes(getComputedStyle(column).display)) column = column.parentElement;
    const around = column.getBoundingClientRect();
    if (!["absolute", "fixed"].includes(style.position) && (box.right > around.right + 1 || box.left < around.left - 1))
      faults.push(`wider than its column: ${named(e)}`);
    if (style.display !== "inline" && e.clientWidth && e.scrollWidth > e.clientWidth + 1 && !["INPUT", "SELECT", "TEXTAREA"].includes(e.tagName))
      faults.push(`its text is wider than it: ${named(e)}`);
    const words = e.childElementCount ? "" : e.textContent.trim();
    if (/^\S{1,12}$|^[\d.,]+ %$/.test(words)) {
      const range = document.createRange();
      range.selectNodeContents(e);
      const tops = new Set([...range.getClientRects()].map((line) => Math.round(line.top)));
      if (tops.size > 1) faults.push(`a short word or number is broken: ${named(e)}`);
    }
    if (style.textOverflow === "ellipsis") faults.push(`text ends in an ellipsis: ${named(e)}`);
  }
  for (const svg of document.querySelectorAll("svg")) {
    if (hidden(svg)) continue;
    const frame = svg.getBoundingClientRect(), texts = [];
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (!box.width || getComputedStyle(text).opacity === "0") continue;
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        faults.push(`cut in a chart: ${text.textContent}`);
      if (text.textContent.includes("…")) faults.push(`shortened in a chart: ${text.textContent}`);
      if (Math.min(box.width, box.height) && Math.max(box.height, 0) < 9 && box.width < 9) faults.push(`too small: ${text.textContent}`);
      for (const other of texts) {
        const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (across > 2 && down > 4) faults.push(`two texts of a chart on each other: ${text.textContent}`);
      }
      texts.push(box);
    }
  }
  return faults;
},

controls() {
  const seen = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")];
  const able = seen.filter((e) => !e.disabled && e.checkVisibility({checkVisibilityProperty: true}) && !(e.type === "radio" && !e.checked));
  able.forEach((e, k) => (e.dataset.control = k));
  return able.length;
},

focused() {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const shown = [e, e.nextElementSibling].filter(Boolean).some((x) => {
    const style = getComputedStyle(x);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  });
  const box = e.getBoundingClientRect();
  const inside = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  return [e.dataset.control ?? null, shown && inside, `${e.tagName.toLowerCase()} ${e.textContent.trim().slice(0, 40)}`];
},
})
