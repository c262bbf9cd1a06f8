"use strict";
// Finds rows: a filter over the table of clusters, and a search with pages over every picked example.
(() => {
  const filter = document.getElementById("cluster-filter");
  if (filter) {
    const rows = [...document.querySelectorAll("#cluster-table tbody tr")];
    const withQuota = document.getElementById("cluster-quota");
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const apply = () => {
      const wanted = filter.value.trim().toLowerCase().split(/\s+/);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !wanted.every((word) => texts[i].includes(word)) || (withQuota.checked && row.dataset.quota === "0");
        shown += !row.hidden;
      });
      document.getElementById("cluster-count").textContent = `${winnow.count(shown)} of ${winnow.count(rows.length)} groups`;
    };
    filter.addEventListener("input", apply);
    withQuota.addEventListener("change", apply);
    apply();
  }
})();

winnow.ready.then(({ picks }) => {
  const search = document.getElementById("pick-search");
  if (!search || !picks) return;
  const pageSize = 25;
  const body = document.querySelector("#pick-table tbody");
  const [back, next] = ["pick-back", "pick-next"].map((id) => document.getElementById(id));
  const texts = picks.id.map((id, i) => `${id} ${picks.source[i]} group:${picks.cluster[i]} ${picks.why[i]} ${picks.asked[i]} ${picks.response[i]} ${picks.before[i]}`.toLowerCase());
  const shownLength = 160;
  let found = texts.map((_, i) => i);
  let page = 0;
  let words = [];

  // The part of a text that shows the first word searched for, or its beginning; the whole text a click away.
  function excerpt(text) {
    if (text.length <= shownLength) return winnow.element("bdi", text);
    const lower = text.toLowerCase();
    const at = Math.min(...words.map((word) => lower.indexOf(word)).filter((place) => place >= 0), text.length);
    const from = at < text.length && at > shownLength - 40 ? at - 60 : 0;
    const made = winnow.element("details");
    const summary = winnow.element("summary");
    summary.append(winnow.element("bdi", `${from ? "…" : ""}${text.slice(from, from + shownLength)}…`));
    made.append(summary, winnow.element("bdi", text));
    return made;
  }

  function row(i) {
    const made = document.createElement("tr");
    const cell = (tag, content, attributes = {}) => {
      const place = winnow.element(tag, "", attributes);
      place.append(content);
      made.append(place);
    };
    const text = (label, name, kind) => cell("td", excerpt(picks[name][i]), { class: kind, "data-label": label });
    const numeric = (label, name, shown) => {
      cell("td", winnow.number(picks[name][i], shown, { detail: `/picks/${name}/${i}` }), { class: "num", "data-label": label });
    };
    cell("th", winnow.element("code", picks.id[i]), { scope: "row" });
    text("Source", "source", "source");
    numeric("Group", "cluster", String(picks.cluster[i]));
    numeric("Tokens", "tokens", winnow.count(picks.tokens[i]));
    numeric("NLL", "nll", picks.nll[i]?.toFixed(3));
    text("Why", "why", "text");
    text("Last user turn", "asked", "text");
    text("Response", "response", "text");
    return made;
  }

  function show() {
    const from = page * pageSize;
    const rows = found.slice(from, from + pageSize);
    body.replaceChildren(...rows.map(row));
    back.disabled = page === 0;
    next.disabled = from + pageSize >= found.length;
    const range = rows.length ? `, ${winnow.count(from + 1)} to ${winnow.count(from + rows.length)} shown` : "";
    document.getElementById("pick-count").textContent = `${winnow.count(found.length)} of ${winnow.count(texts.length)} match${range}`;
  }

  search.addEventListener("input", () => {
    words = search.value.trim().toLowerCase().split(/\s+/).filter((word) => word);
    found = texts.flatMap((text, i) => (words.every((word) => text.includes(word)) ? [i] : []));
    page = 0;
    show();
  });
  back.addEventListener("click", () => { page -= 1; show(); });
  next.addEventListener("click", () => { page += 1; show(); });
  show();
}, () => {});
