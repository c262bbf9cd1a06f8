"use strict";
// Unpacks what the page carries packed (base64 of gzip), once the first view stands: what can be looked up (a comparison has nothing), and plotly.js.
const winnow = (() => {
  function bytes(base64) {
    const text = atob(base64);
    const result = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) result[i] = text.charCodeAt(i); // from() with a callback takes ten times as long
    return result;
  }

  async function unpack(id) {
    const packed = bytes(document.getElementById(id).textContent);
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // The page's policy names the script's hash, so it runs, and no other text in its place would.
  async function run(id) {
    const text = await unpack(id);
    const script = document.createElement("script");
    script.textContent = text;
    document.head.append(script);
  }

  // An element with text that can hold no markup, and attributes.
  function element(tag, text = "", attributes = {}) {
    const made = document.createElement(tag);
    made.textContent = text;
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    return made;
  }

  // A number as the page writes it: `place` is its JSON pointer in summary.json ("path") or details.json ("detail"), or its formula.
  function number(value, text, place) {
    if (value === null || value === undefined) return element("span", "–", { class: "missing" });
    const made = element("data", text, { value: JSON.stringify(value) });
    Object.entries(place).forEach(([name, pointer]) => made.setAttribute(`data-${name}`, pointer));
    return made;
  }

  const count = (value) => value.toLocaleString("en-US");

  const settled = new Promise((resolve) => {
    const soon = () => setTimeout(resolve, 0);
    if (document.readyState === "complete") soon();
    else addEventListener("load", soon, { once: true });
  });
  // Data first: nothing in the first view waits for plotly.js, and running it holds the page for a second or two.
  const ready = settled.then(() => (document.getElementById("details-data") ? unpack("details-data") : "null")).then(JSON.parse);
  const plotly = ready.catch(() => {}).then(() => run("plotly-data"));
  ready.catch((error) => {
    document.documentElement.dataset.details = "failed";
    document.querySelectorAll(".needs-details").forEach((place) => {
      place.replaceChildren(element("p", `This browser cannot unpack the page's data (${error.name}).`, { class: "absent" }));
    });
  });
  ready.then(() => { document.documentElement.dataset.details = "ready"; }, () => {});

  // The chosen cluster is one for the whole page: the map rings it, the card describes it, the select box names it.
  const choose = (cluster) => document.dispatchEvent(new CustomEvent("winnow:cluster", { detail: cluster }));
  const onChoice = (listener) => document.addEventListener("winnow:cluster", (event) => listener(event.detail));

  return { bytes, plotly, ready, element, number, count, choose, onChoice };
})();
