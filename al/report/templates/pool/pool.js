"use strict";
// Filters the table of examples by words and by source; opens folded texts for paper.
(() => {
  const search = document.getElementById("search");
  const source = document.getElementById("source");
  const found = document.getElementById("found");
  const rows = [...document.querySelectorAll("#examples tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      const fits = words.every((word) => texts[index].includes(word));
      row.hidden = !fits || (source.value !== "" && row.dataset.source !== source.value);
      shown += row.hidden ? 0 : 1;
    });
    found.textContent = `${shown} of ${rows.length} shown`;
  }

  if (search) {
    search.addEventListener("input", filter);
    source.addEventListener("change", filter);
    filter();
  }
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((element) => { element.open = true; });
  });
})();
