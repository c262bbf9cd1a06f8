"use strict";
// The card of the chosen cluster: its numbers, terms, what lies at its centre, what was picked of it and what was refused.
winnow.ready.then((data) => {
  const place = document.getElementById("card");
  if (!place) return;
  const { element, number, count } = winnow;
  const cards = new Map(data.cards.map((card) => [card.cluster, card]));

  function facts(card) {
    const list = element("dl", "", { class: "facts" });
    for (const { name, numbers } of card.facts) {
      const fact = element("div");
      const shown = element("dd");
      numbers.forEach(([value, text, path], i) => shown.append(i ? " ± " : "", number(value, text, { path })));
      fact.append(element("dt", name), shown);
      list.append(fact);
    }
    return list;
  }

  function outcomes(card) {
    const list = element("ul", "", { class: "plain" });
    const all = Object.values(card.outcomes).reduce((sum, value) => sum + value, 0);
    for (const [code, value] of Object.entries(card.outcomes)) {
      const row = element("li");
      const share = Math.round((100 * value) / all);
      row.append(number(value, count(value), { detail: `/cards/${card.index}/outcomes/${code}` }), ` ${data.outcome_words[code] ?? code} (${share}%)`);
      list.append(row);
    }
    return list;
  }

  function examples(rows, withReason) {
    const list = element("ul", "", { class: "plain" });
    for (const row of rows) {
      const item = element("li");
      const meta = element("p", "", { class: "meta" });
      meta.append(element("code", row.id), " ", element("bdi", row.source));
      item.append(meta, element("p", row.text, { class: "excerpt", dir: "auto" }));
      if (withReason) item.append(element("p", row.why, { class: "why" }));
      list.append(item);
    }
    return list;
  }

  function part(title, shown, absent) {
    const made = element("div");
    made.append(element("h4", title), shown ?? element("p", absent, { class: "missing" }));
    return made;
  }

  function sentences(card) {
    const lines = [["Why this quota: ", card.reason], ["As a formula: ", card.formula], ["Changed in this round: ", card.change], ["Terms: ", card.terms.join(", ")]];
    return lines.filter(([, text]) => text).map(([lead, text]) => {
      const line = element("p");
      line.append(element("b", lead), element("bdi", text));
      return line;
    });
  }

  function show(cluster) {
    const card = cards.get(cluster);
    place.hidden = cluster === null;
    if (place.hidden) return;
    const heading = element("h3", "Group ");
    heading.append(String(cluster));
    if (card) heading.append(": ", element("bdi", card.name));
    const close = element("button", "Close", { type: "button", class: "small" });
    close.addEventListener("click", () => winnow.choose(null));
    place.replaceChildren(heading, close);
    place.dataset.cluster = cluster;
    if (!card) {
      place.append(element("p", "Only the groups with the largest quotas have a card; this one is in the table of groups.", { class: "absent" }));
      return;
    }
    const shown = (rows, withReason) => (rows && rows.length ? examples(rows, withReason) : null);
    const columns = element("div", "", { class: "columns" });
    columns.append(
      part("What became of it", card.outcomes ? outcomes(card) : null, "Not recorded."),
      part("Nearest to its centre", shown(card.exemplars, false), "Not recorded."),
      part("Picked, first ones first", shown(card.picked, true), "None."),
      part("Refused", shown(card.refused, true), "None."),
    );
    place.append(...sentences(card), facts(card), columns, element("p", "Texts are cut at 240 characters, where “…” stands.", { class: "note" }));
  }

  winnow.onChoice(show);
  document.querySelectorAll("a[data-cluster]").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    winnow.choose(Number(link.dataset.cluster));
    place.scrollIntoView({ block: "nearest" });
    place.focus({ preventScroll: true });
  }));
}, () => {});
