"use strict";
// Shows the batch, sends every change immediately, follows the round after the approval. Texts are only set as textContent.
(() => {
  const token = new URLSearchParams(location.search).get("token") || "";
  const $ = (id) => document.getElementById(id);
  const PAGE = 50;
  const STATES = {
    kept: "proposed", filled: "replacement", pinned: "pinned", dropped: "dropped", out: "removed", left: "not picked",
    unlabelled: "no response", edited: "edited",
  };
  const NOTES = {
    batch: "The examples to train on. Drop unwanted ones; the next candidates of the same group replace them immediately.",
    changed: "Your changes, removed examples and replacements.",
    left: "Examples that may be picked but are not. Pin wanted ones; each replaces another example of its group.",
    pool: "Every example of the pool with what became of it. Drop bad ones: they stay out of later rounds too.",
    unlabelled: "Examples without a response. An answer enters the pool in the next round; this round does not train on it.",
  };
  let state = null;
  let rows = [];
  let total = 0;
  const look = { view: "batch", cluster: null, source: null, search: "", offset: 0 };

  function make(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in node) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  async function ask(path, body) {
    const options = { headers: { "x-review-token": token } };
    if (body !== undefined) {
      options.method = "POST";
      options.headers["content-type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new Error("No response from the server: its process has ended. The draft is kept; the same command shows this page again.");
    }
    const document = await response.json();
    if (!response.ok) throw new Error(document.error || JSON.stringify(document.detail));
    return document;
  }

  function complain(text) {
    $("problem").textContent = text;
    $("problem").hidden = !text;
  }

  const number = (value) => value.toLocaleString("en");
  const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

  // -- around the list -----------------------------------------------------------------------------------------------
  function showState() {
    const c = state.counts;
    document.title = `Review of ${state.run}, round ${state.round}`;
    $("title").textContent = `Review of ${state.run}, round ${state.round}`;
    $("facts").textContent =
      `${plural(c.proposed, "example", "examples")} proposed by strategy ${state.strategy} for a budget of ${number(state.budget)} ${state.unit}.`;
    $("notice").textContent = state.notice || "";
    $("notice").hidden = !state.notice;
    complain(state.problem || "");
    const unit = state.unit === "tokens" ? `${number(state.spent)} of ${number(state.budget)} tokens` : `${number(state.spent)} of ${number(state.budget)} examples`;
    $("sum").textContent = `${unit} · ${number(c.kept)} proposed kept, ${number(c.out)} removed, ${number(c.filled)} added, ${number(c.pinned)} pinned`
      + (c.answered ? `, ${number(c.answered)} answered` : "") + (c.edited ? `, ${number(c.edited)} edited` : "");
    $("undo").disabled = !state.undoable;
    $("approve").disabled = Boolean(state.problem);
    $("approve").textContent = state.resume ? "Approve" : "Approve and train";
    $("confirm-note").textContent = state.resume
      ? `The decision is recorded with the round and nothing is trained: ${state.resume} trains.`
      : "The decision is recorded with the round, and training starts immediately.";
    for (const button of document.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", String(button.dataset.view === look.view));
      button.hidden = button.dataset.view === "unlabelled" && !c.unlabelled;
    }
    showClusters();
    showSources();
    if (document.activeElement !== $("note")) $("note").value = state.draft.note;
    if (state.approved) follow();
  }

  function banButton(banned, what, change) {
    const button = make("button", { type: "button", textContent: banned ? "Banned" : "Ban", className: "drop" });
    button.setAttribute("aria-pressed", String(banned));
    button.setAttribute("aria-label", `${banned ? "Undo the ban of" : "Ban"} ${what}`);
    button.addEventListener("click", change);
    return button;
  }

  function nameButton(text, pressed, act) {
    const button = make("button", { type: "button", className: "group-name", textContent: text });
    button.setAttribute("aria-pressed", String(pressed));
    button.addEventListener("click", act);
    return button;
  }

  function showClusters() {
    const words = $("cluster-filter").value.trim().toLowerCase();
    const focused = document.activeElement?.dataset?.cluster;
    const shown = state.clusters
      .filter((entry) => !words || `${entry.cluster} ${entry.name}`.toLowerCase().includes(words))
      .sort((a, b) => b.picked - a.picked || a.cluster - b.cluster);
    $("clusters").replaceChildren(...shown.map((entry) => {
      const quota = make("input", { type: "number", min: 0, value: entry.set ?? "", placeholder: String(state.unit === "tokens" ? entry.tokens : entry.picked) });
      quota.dataset.cluster = entry.cluster;
      quota.disabled = entry.banned;
      quota.setAttribute("aria-label", `Quota of group ${entry.cluster} in ${state.unit}`);
      quota.addEventListener("change", () => change("quota", String(entry.cluster), quota.value === "" ? null : Number(quota.value)));
      return make("li", { className: entry.banned ? "banned" : "" },
        nameButton(`${entry.cluster} · ${entry.name}`, look.cluster === entry.cluster, () => filterBy("cluster", entry.cluster)),
        make("div", { className: "row" },
          make("span", { textContent: `${number(entry.now)} of ${number(entry.selectable)}` }),
          make("label", {}, state.unit === "tokens" ? "tokens " : "quota ", quota),
          banButton(entry.banned, `group ${entry.cluster}`, () => change("ban_cluster", String(entry.cluster), !entry.banned))),
        make("small", { textContent: entry.reason }));
    }));
    if (focused !== undefined) $("clusters").querySelector(`input[data-cluster="${CSS.escape(focused)}"]`)?.focus();
  }

  function showSources() {
    $("sources").replaceChildren(...state.sources.map((entry) =>
      make("li", { className: entry.banned ? "banned" : "" },
        nameButton(entry.source, look.source === entry.source, () => filterBy("source", entry.source)),
        make("div", { className: "row" },
          make("span", { textContent: `${number(entry.now)} now, ${number(entry.picked)} proposed` }),
          banButton(entry.banned, `source ${entry.source}`, () => change("ban_source", entry.source, !entry.banned))))));
  }

  function showFilters() {
    const chips = [];
    for (const [kind, word] of [["cluster", "group"], ["source", "source"]]) {
      if (look[kind] === null) continue;
      const chip = make("button", { type: "button", textContent: `${word} ${look[kind]} ✕` });
      chip.setAttribute("aria-label", `Show all ${word}s again`);
      chip.addEventListener("click", () => filterBy(kind, look[kind]));
      chips.push(chip);
    }
    $("filters").replaceChildren(...chips);
  }

  function filterBy(kind, value) {
    look[kind] = look[kind] === value ? null : value;
    look.offset = 0;
    showState();
    refresh();
  }

  // -- the list ------------------------------------------------------------------------------------------------------
  let newest = 0;
  async function refresh(focus = null) {
    const mine = ++newest;
    const query = new URLSearchParams({ view: look.view, search: look.search, offset: look.offset, limit: PAGE });
    if (look.cluster !== null) query.set("cluster", look.cluster);
    if (look.source !== null) query.set("source", look.source);
    let found;
    try {
      found = await ask(`/api/examples?${query}`);
    } catch (error) {
      complain(error.message);
      return;
    }
    if (mine !== newest) return;
    ({ rows, total } = found);
    showFilters();
    $("view-note").textContent = NOTES[look.view];
    $("count").textContent = total ? plural(total, "example", "examples") : "Nothing to show.";
    $("list").replaceChildren(...rows.map(card));
    $("list").dataset.ready = look.view;
    $("page").textContent = total ? `${number(look.offset + 1)}–${number(Math.min(look.offset + PAGE, total))} of ${number(total)}` : "";
    $("previous").disabled = look.offset === 0;
    $("next").disabled = look.offset + PAGE >= total;
    if (focus !== null) cardAt(Math.min(focus, rows.length - 1))?.focus();
  }

  const cardAt = (index) => $("list").children[index];

  function toggle(row, kind, text) {
    const on = row.state === { drop: "dropped", pin: "pinned" }[kind];
    const button = make("button", { type: "button", className: kind, textContent: text });
    button.setAttribute("aria-pressed", String(on));
    button.setAttribute("aria-keyshortcuts", kind[0]);
    button.addEventListener("click", () => mark(row, kind));
    return button;
  }

  // A box with the whole response in its place. The example as it is stays out; with the corrected response it enters the pool in the next round.
  async function edit(row, item, response) {
    if (item.querySelector(".edit-box")) return;
    let text = row.edit;
    try {
      text ??= (await ask(`/api/examples/${row.id}`)).response;
    } catch (error) {
      complain(error.message);
      return;
    }
    const box = make("textarea", { rows: Math.min(20, 3 + text.split("\n").length), value: text, maxLength: 1000000 });
    box.setAttribute("aria-label", `Corrected response of ${row.id}`);
    const index = rows.indexOf(row);
    const send = (value) => change("edit", row.id, value, index < 0 ? null : index);
    const save = make("button", { type: "button", textContent: "Save the edit" });
    save.addEventListener("click", () => send(box.value));
    const cancel = make("button", { type: "button", textContent: "Cancel" });
    const close = () => {
      place.remove();
      response.hidden = false;
      item.focus();
    };
    cancel.addEventListener("click", close);
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(box.value);
    });
    const buttons = make("div", { className: "control" }, save, cancel);
    if (row.edit !== null) {
      const remove = make("button", { type: "button", textContent: "Remove the edit" });
      remove.addEventListener("click", () => send(null));
      buttons.append(remove);
    }
    const place = make("div", { className: "edit-box" }, box, buttons);
    response.hidden = true;
    response.after(place);
    box.focus();
  }

  function card(row) {
    const scores = Object.entries(row.scores).map(([name, value]) => `${name} ${value.toFixed(3)}`).join(", ");
    const meta = make("p", { className: "meta" },
      make("span", { className: "badge", textContent: STATES[row.state] || row.state }),
      make("span", { textContent: row.id }),
      make("span", { textContent: row.source }),
      make("span", { textContent: `group ${row.cluster}` }),
      make("span", { textContent: `${number(row.tokens)} tokens` }));
    if (scores) meta.append(make("span", { textContent: scores }));
    const prompt = make("pre", { textContent: row.prompt, dir: "auto" });
    const response = make("pre", { textContent: row.response, dir: "auto" });
    const item = make("li", { className: "card", tabIndex: -1 }, meta, make("p", { className: "why", textContent: row.why }),
      make("h3", { textContent: "Prompt" }), prompt);
    item.dataset.id = row.id;
    item.dataset.state = row.state;
    if (row.suspicion) item.append(make("p", { className: "why", textContent: `Suspected noise: ${row.suspicion}` }));
    if (row.state === "unlabelled") item.append(answerBox(row));
    else item.append(make("h3", { textContent: "Response" }), response);
    if (row.edit !== null) {
      item.append(make("h3", { textContent: "Edited response, in the pool from the next round on" }),
        make("pre", { textContent: row.edit, dir: "auto", className: "edited" }));
    }
    const buttons = make("div", { className: "control" });
    if (row.state !== "unlabelled") {
      const editing = make("button", { type: "button", textContent: "Edit", className: "edit" });
      editing.setAttribute("aria-keyshortcuts", "e");
      editing.addEventListener("click", () => edit(row, item, response));
      buttons.append(toggle(row, "drop", "Drop"), toggle(row, "pin", "Pin"), editing);
    }
    if (row.prompt.endsWith("…") || row.response.endsWith("…")) {
      const whole = make("button", { type: "button", textContent: "Whole text", className: "whole" });
      whole.addEventListener("click", async () => {
        try {
          const found = await ask(`/api/examples/${row.id}`);
          prompt.textContent = found.prompt;
          response.textContent = found.response;
          whole.remove();
        } catch (error) {
          complain(error.message);
        }
      });
      buttons.append(whole);
    }
    item.append(buttons);
    return item;
  }

  function answerBox(row) {
    const box = make("textarea", { rows: 3, value: row.answer || "" });
    const label = make("label", {}, "Answer", box);
    box.addEventListener("change", () => change("answer", row.id, box.value.trim() ? box.value : null, null, false));
    return label;
  }

  // -- changes -------------------------------------------------------------------------------------------------------
  // One after the other, so the last answer belongs to the last request.
  let queue = Promise.resolve();
  let refused = 0;
  function change(kind, key, value, focus = null, redraw = true) {
    queue = queue.then(async () => {
      try {
        state = await ask("/api/change", { kind, key, value });
        showState();
      } catch (error) {
        refused += 1;
        complain(error.message);
        if (kind === "quota") showClusters();
        return;
      }
      if (redraw) await refresh(focus);
    });
    return queue;
  }

  function undo() {
    queue = queue.then(async () => {
      try {
        state = await ask("/api/undo", {});
        showState();
      } catch (error) {
        complain(error.message);
        return;
      }
      await refresh();
    });
    return queue;
  }

  function mark(row, kind) {
    const on = row.state === { drop: "dropped", pin: "pinned" }[kind];
    const index = rows.indexOf(row);
    return change(kind, row.id, !on, index < 0 ? null : index);
  }

  function move(step) {
    const at = [...$("list").children].indexOf(document.activeElement?.closest(".card"));
    const next = at < 0 ? 0 : at + step;
    if (next >= 0 && next < rows.length) {
      cardAt(next).focus();
      cardAt(next).scrollIntoView({ block: "nearest" });
    } else if (next >= rows.length && !$("next").disabled) turn(1, 0);
    else if (next < 0 && !$("previous").disabled) turn(-1, PAGE - 1);
  }

  function turn(step, focus = null) {
    look.offset = Math.max(0, look.offset + step * PAGE);
    return refresh(focus);
  }

  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey || state === null || state.approved || $("confirm").open) return;
    const at = [...$("list").children].indexOf(document.activeElement?.closest(".card"));
    const act = {
      j: () => move(1),
      k: () => move(-1),
      d: () => rows[at] && rows[at].state !== "unlabelled" && mark(rows[at], "drop"),
      p: () => rows[at] && rows[at].state !== "unlabelled" && mark(rows[at], "pin"),
      e: () => cardAt(at)?.querySelector(".edit")?.click(),
      o: () => cardAt(at)?.querySelector(".whole")?.click(),
      u: undo,
      "/": () => $("search").focus(),
    }[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });

  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => {
      Object.assign(look, { view: button.dataset.view, offset: 0 });
      showState();
      refresh();
    });
  }
  let typed = null;
  $("search").addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(() => {
      Object.assign(look, { search: $("search").value, offset: 0 });
      refresh();
    }, 250);
  });
  $("search-form").addEventListener("submit", (event) => event.preventDefault());
  $("cluster-filter").addEventListener("input", showClusters);
  $("note").addEventListener("change", () => change("note", "", $("note").value, null, false));
  $("undo").addEventListener("click", undo);
  $("previous").addEventListener("click", () => turn(-1, 0));
  $("next").addEventListener("click", () => turn(1, 0));

  // -- approval, and training ---------------------------------------------------------------------------------------
  let pressed = null;
  // Pressing the button ends typing: what was typed is sent, and may be refused, before the click that follows.
  $("approve").addEventListener("pointerdown", () => (pressed = refused));
  $("approve").addEventListener("click", async () => {
    const before = pressed ?? refused;
    pressed = null;
    await queue; // a note or an answer that is still being sent
    if (refused > before || state.problem) return; // the reason is shown
    const c = state.counts;
    $("confirm-text").textContent =
      `${number(c.kept)} of ${plural(c.proposed, "proposed example", "proposed examples")} kept, ${number(c.out)} removed, `
      + `${number(c.filled)} replacements added, ${number(c.pinned)} pinned.`;
    $("confirm").showModal();
  });
  $("no").addEventListener("click", () => $("confirm").close());
  $("yes").addEventListener("click", async () => {
    $("confirm").close();
    try {
      state = await ask("/api/approve", { revision: state.revision });
      showState();
    } catch (error) {
      complain(error.message);
      const fresh = await ask("/api/state").catch(() => null);
      if (!fresh) return;
      state = fresh; // approve only the state that is shown
      showState();
      if (!state.approved) {
        await refresh();
        complain(error.message);
      }
    }
  });

  let following = false;
  function follow() {
    if (following) return;
    following = true;
    $("desk").hidden = true;
    $("bar").hidden = true;
    $("live").hidden = false;
    if (state.resume) {
      $("live-state").textContent = `The decision is recorded. Nothing is trained yet: ${state.resume} trains.`;
      $("live-note").hidden = true;
      return;
    }
    poll();
  }

  function fact(name, text) {
    return make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: text }));
  }

  async function poll() {
    let found;
    try {
      found = await ask("/status");
    } catch {
      $("live-state").textContent = "The process has ended; `status` and `report` on the command line show its progress.";
      return;
    }
    const { stage } = found;
    if (found.finished) {
      $("live-state").textContent = `Finished: ${found.finished}`;
      $("live-facts").replaceChildren();
      return;
    }
    const facts = [];
    if (stage) facts.push(fact("Stage", stage.stage), fact("Since", new Date(stage.since).toLocaleTimeString()));
    if (stage?.step) facts.push(...stepFacts(stage.step));
    else if (found.progress) facts.push(...progressFacts(found.progress));
    $("live-facts").replaceChildren(...facts);
    setTimeout(poll, 2000);
  }

  function stepFacts(step) {
    const known = [
      ["loss", "Loss", (x) => x.toFixed(3)],
      ["dev_loss", "Dev loss", (x) => x.toFixed(3)],
      ["best_dev_loss", "Best dev loss", (x) => `${x.toFixed(3)} at step ${number(step.best_step)}`],
      ["tokens_per_s", "Tokens per second", (x) => number(Math.round(x))],
      ["memory_gib", "Memory", (x) => `${x.toFixed(1)} GiB`],
      ["seconds_left", "Left", left],
    ].filter(([key]) => Number.isFinite(step[key]));
    return [
      fact("Step", `${number(step.step)} of ${number(step.steps)}`),
      ...known.map(([key, name, say]) => fact(name, say(step[key]))),
    ];
  }

  function progressFacts(progress) {
    const of = progress.total === null ? "" : ` of ${number(progress.total)}`;
    const facts = [fact("Done", `${number(progress.done)}${of} ${progress.unit}`)];
    if (Number.isFinite(progress.seconds_left)) facts.push(fact("Left", left(progress.seconds_left)));
    return facts;
  }

  function left(seconds) {
    return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
  }

  async function start() {
    try {
      state = await ask("/api/state");
    } catch (error) {
      complain(error.message);
      return;
    }
    if (matchMedia("(min-width: 62rem)").matches) $("clusters-box").open = true;
    showState();
    if (!state.approved) await refresh();
  }
  start();
})();
