"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  // --- Sorting: ascending, descending, and back to the order of the suite ---
  const ORDER = { none: "ascending", ascending: "descending", descending: "none" };

  function compare(a, b) {
    if (Number.isFinite(Number(a)) && Number.isFinite(Number(b))) return Number(a) - Number(b);
    return a.localeCompare(b, "en", { numeric: true });
  }

  function sort(button) {
    const head = button.closest("th");
    const direction = ORDER[head.getAttribute("aria-sort")];
    for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", direction);
    const body = head.closest("table").tBodies[0], rows = [...body.rows];
    rows.forEach((row, place) => { row.dataset.place ??= place; });
    const value = (row) => row.children[head.cellIndex].dataset.value;
    rows.sort((a, b) => {
      const first = a.dataset.place - b.dataset.place;
      if (direction === "none") return first;
      const missing = (value(a) === "") - (value(b) === "");  // what is not there comes last either way
      const difference = missing || compare(value(a), value(b)) * (direction === "ascending" ? 1 : -1);
      return difference || first;
    });
    body.append(...rows);
  }

  // --- Where a number comes from ---
  const dialog = document.getElementById("origin");

  function facts(list, pairs) {
    const element = (tag, textContent) => Object.assign(document.createElement(tag), { textContent });
    for (const [name, value] of pairs) list.append(element("dt", name), element("dd", value));
  }

  function open(key) {
    const number = data.numbers[key], list = dialog.querySelector("dl");
    document.getElementById("origin-title").textContent = number.title;
    list.replaceChildren();
    facts(list, number.facts);
    if (number.run !== null) facts(list, data.runs[number.run].facts);
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".sort");
    if (button) return sort(button);
    const number = event.target.closest("[data-key]");
    if (number && (number.tagName === "TD" || event.target.closest(".origin"))) return open(number.dataset.key);
    if (event.target === dialog) dialog.close();  // the backdrop
  });

  // --- The paper's numbers ---
  const paper = document.getElementById("paper");
  if (paper) {
    const show = () => document.documentElement.classList.toggle("with-paper", paper.checked);
    paper.addEventListener("change", show);
    show();  // a browser that goes back to the page keeps the box as it was
  }

  // --- One method against another, group by group ---
  const SVG = "http://www.w3.org/2000/svg";
  const SIZE = 400, LEFT = 60, RIGHT = 12, TOP = 12, BOTTOM = 48;

  function draw(parent, name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  function ticks(low, high) {
    const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => power * factor >= rough);
    const found = [];
    for (let place = Math.ceil(low / step - 1e-9); place * step <= high + 1e-9; place++) {
      found.push(Number((place * step).toPrecision(10)));
    }
    return found;
  }

  // The mean difference, and what can be said of it: pairs[i][j], j < i, is about row i minus row j.
  function difference(pairs, across, up) {
    if (across === up) return "";
    const found = pairs[Math.max(across, up)][Math.min(across, up)], sign = up > across ? 1 : -1;
    const points = (value) => `${sign * value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
    const mean = `; ${points(found.mean)} points on average`;
    if (!found.about) return `${mean}; too few class splits, sets of classes or groups for an interval`;
    const ends = (sign > 0 ? [found.low, found.high] : [found.high, found.low]).map(points).join(" to ");
    const number = pairs.flat().filter((pair) => pair.about).length;
    const holm = number > 1 ? `, corrected for the ${number} pairs of this plot by Holm's procedure` : "";
    return `${mean}, ${ends} (${found.confidence}% interval${holm}): ` +
      `${found.differs ? "they differ" : "no difference shown"}, for ${found.about}`;
  }

  function scatter(figure) {
    const { rows, families, x, y } = data.scatters[figure.dataset.scatter];
    const [across, up, familySelect] = [".x", ".y", ".families"].map((name) => figure.querySelector(name));
    rows.forEach((label, place) => [across, up].forEach((select) => select.add(new Option(label, place))));
    families.forEach((family, place) => familySelect.add(new Option(family.label, place)));
    figure.querySelector(".family").hidden = families.length < 2;
    across.value = x;
    up.value = y;

    function redraw() {
      const family = families[familySelect.value], names = [rows[across.value], rows[up.value]];
      const [a, b] = [family.accuracies[across.value], family.accuracies[up.value]];
      const pairs = family.groups
        .map(([split, seed, group], place) => ({ split, seed, group, a: a[place], b: b[place] }))
        .filter((pair) => Number.isFinite(pair.a) && Number.isFinite(pair.b));
      const note = figure.querySelector(".note"), drawing = figure.querySelector(".drawing");
      drawing.replaceChildren();
      if (!pairs.length) {
        note.textContent = `${names[0]} and ${names[1]} have no group in common in ${family.label}.`;
        return;
      }
      const values = pairs.flatMap((pair) => [pair.a, pair.b]);
      const margin = 0.06 * (Math.max(...values) - Math.min(...values)) || 1;
      const low = Math.max(Math.min(...values) - margin, -1), high = Math.min(Math.max(...values) + margin, 101);
      const at = (value, start, end) => start + (value - low) / (high - low) * (end - start);
      const right = (value) => at(value, LEFT, SIZE - RIGHT), down = (value) => at(value, SIZE - BOTTOM, TOP);
      const svg = draw(drawing, "svg", {
        viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img", "aria-label": `${names[1]} against ${names[0]}, ${family.label}`,
      });
      for (const tick of ticks(low, high)) {
        if (tick < 0 || tick > 100) continue;
        draw(svg, "line", { class: "grid", x1: right(tick), x2: right(tick), y1: TOP, y2: SIZE - BOTTOM });
        draw(svg, "line", { class: "grid", x1: LEFT, x2: SIZE - RIGHT, y1: down(tick), y2: down(tick) });
        draw(svg, "text", { x: right(tick), y: SIZE - BOTTOM + 17, "text-anchor": "middle" }, tick);
        draw(svg, "text", { x: LEFT - 6, y: down(tick) + 4, "text-anchor": "end" }, tick);
      }
      draw(svg, "line", { class: "diagonal", x1: right(low), y1: down(low), x2: right(high), y2: down(high) });
      const cut = (name) => (name.length > 36 ? `${name.slice(0, 35)}…` : name);
      draw(svg, "text", { x: (LEFT + SIZE) / 2, y: SIZE - 10, "text-anchor": "middle" }, `${cut(names[0])} (%)`);
      draw(svg, "text", {
        transform: `translate(14 ${(SIZE - BOTTOM + TOP) / 2}) rotate(-90)`, "text-anchor": "middle",
      }, `${cut(names[1])} (%)`);
      for (const pair of pairs) {
        const dot = draw(svg, "circle", { class: "dot", cx: right(pair.a).toFixed(1), cy: down(pair.b).toFixed(1), r: 3.5 });
        draw(dot, "title", {}, `group ${pair.group}, class split ${pair.split}, seed ${pair.seed}: ${pair.a} and ${pair.b} %`);
      }
      const above = pairs.filter((pair) => pair.b > pair.a).length, below = pairs.filter((pair) => pair.b < pair.a).length;
      note.textContent = `${family.label}, ${pairs.length} groups that both measured: ${names[1]} is ahead in ${above}, ` +
        `behind in ${below}, level in ${pairs.length - above - below}` +
        `${difference(family.pairs, Number(across.value), Number(up.value))}.`;
    }

    for (const select of [across, up, familySelect]) select.addEventListener("change", redraw);
    redraw();
  }

  document.querySelectorAll("figure.scatter").forEach(scatter);
})();
