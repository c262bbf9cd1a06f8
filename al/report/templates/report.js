"use strict";
// Draws the charts in the colours of the current theme, sorts tables by their headings.
(() => {
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];
  const config = { displayModeBar: false, responsive: true };
  // Paper is narrower than the screen for which a chart was drawn: 640 px fit A4 and Letter.
  const paperWidth = 640;
  let printing = false;

  // "@selected" under a key that ends in "color" is the CSS variable --selected; every other string stays as it is.
  function themed(node, style, key = "") {
    if (Array.isArray(node)) return node.map((item) => themed(item, style));
    if (node && typeof node === "object") {
      return Object.fromEntries(Object.entries(node).map(([name, item]) => [name, themed(item, style, name)]));
    }
    const isRole = typeof node === "string" && key.endsWith("color") && node.startsWith("@");
    return isRole ? style.getPropertyValue(`--${node.slice(1)}`).trim() : node;
  }

  function draw(place) {
    const style = getComputedStyle(document.documentElement);
    const { data, layout } = themed(charts[place.dataset.chart], style);
    const value = (name) => style.getPropertyValue(name).trim();
    Object.assign(layout, printing ? { width: paperWidth } : {}, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: value("--ink") },
      hoverlabel: { bgcolor: value("--card"), bordercolor: value("--axis"), font: { color: value("--ink") } },
    });
    Plotly.react(place, data, layout, config);
  }

  // A chart is drawn when it comes near the window: all at once would hold the page back while the verdict is read.
  const drawn = new Set();
  const drawOnce = (place) => {
    if (!drawn.has(place)) {
      drawn.add(place);
      draw(place);
    }
  };
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      near.unobserve(entry.target);
      winnow.plotly.then(() => drawOnce(entry.target), () => {});
    }),
    { rootMargin: "600px" },
  );
  winnow.plotly.catch((error) => places.forEach((place) => {
    place.textContent = `This browser cannot unpack the charts (${error.name}). The tables hold their numbers.`;
  }));
  for (const place of places) {
    place.style.height = `${charts[place.dataset.chart].layout.height}px`;
    near.observe(place);
  }
  const redraw = () => drawn.forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  // Print styles are light whatever the screen is.
  matchMedia("print").addEventListener("change", redraw);
  addEventListener("beforeprint", () => {
    printing = true;
    document.querySelectorAll("details").forEach((element) => { element.open = true; });
    if (!globalThis.Plotly) return;
    places.forEach((place) => drawn.add(place));
    redraw();
  });
  addEventListener("afterprint", () => {
    printing = false;
    drawn.forEach(Plotly.purge); // react alone would keep the width of the paper
    redraw();
  });

  // A cell sorts by its first number, else by its text; missing numbers stay last both ways.
  function sortKey(row, column) {
    const cell = row.cells[column];
    const number = cell.querySelector("data");
    if (number) return Number(number.value);
    return cell.querySelector(".missing") ? null : cell.textContent.trim().toLowerCase();
  }

  function sortBy(header) {
    const table = header.closest("table");
    const wasDescending = header.getAttribute("aria-sort") === "descending";
    const fresh = header.getAttribute("aria-sort") === "none";
    const descending = fresh ? header.classList.contains("num") : !wasDescending;
    const keyed = [...table.tBodies[0].rows].map((row) => ({ row, key: sortKey(row, header.cellIndex) }));
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      const order = typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key);
      return descending ? -order : order;
    });
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    table.tBodies[0].append(...keyed.map(({ row }) => row));
  }

  document.querySelectorAll("table.sortable th[aria-sort]").forEach((header) => {
    header.querySelector("button").addEventListener("click", () => sortBy(header));
  });
})();
