"use strict";
// The map of the pool: pan, zoom, hover, choose a cluster. Points are decoded from the page's data; map-draw.js draws them.
winnow.ready.then((data) => {
  const frame = document.getElementById("pool-map");
  if (!frame || !data.map) return;
  const map = decoded(data.map);
  const near = nearestPoint(map);
  const tip = document.getElementById("map-tip");
  const colorBy = document.getElementById("map-color");
  const choice = document.getElementById("map-cluster");
  const view = { zoom: 1, x: map.middle[0], y: map.middle[1] };
  let canvas = frame.querySelector("canvas");
  let drawer = null;
  let chosen = null;
  let hovered = -1;

  function decoded(document_) {
    const bytes = winnow.bytes;
    const words = (text) => new Uint16Array(bytes(text).buffer);
    const result = { ...document_, round: bytes(document_.round), outcome: bytes(document_.outcome) };
    for (const name of ["x", "y", "cluster", "source", "score"]) result[name] = words(document_[name]);
    result.textOf = new Map((document_.texts?.point || []).map((point, i) => [point, i]));
    const ends = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [65535, 0]);
    result.ends = [ends(result.x), ends(result.y)].map((pair) => pair.map((value) => value / 65535));
    result.middle = result.ends.map(([low, high]) => (low + high) / 2);
    return result;
  }

  // Points in the cells of a grid, so that the nearest one is found among a few.
  function nearestPoint({ x, y, points }) {
    const cells = 128;
    const cell = (value) => Math.min(cells - 1, Math.floor((value / 65536) * cells));
    const starts = new Uint32Array(cells * cells + 1);
    const at = new Uint32Array(points);
    for (let i = 0; i < points; i += 1) starts[cell(y[i]) * cells + cell(x[i]) + 1] += 1;
    for (let i = 1; i < starts.length; i += 1) starts[i] += starts[i - 1];
    const next = starts.slice();
    for (let i = 0; i < points; i += 1) at[next[cell(y[i]) * cells + cell(x[i])]++] = i;
    return (wantedX, wantedY, reach) => {
      let best = -1;
      let least = reach * reach;
      const span = (value) => [Math.max(0, cell((value - reach) * 65535)), Math.max(0, cell((value + reach) * 65535))];
      const [left, right] = span(wantedX);
      const [low, high] = span(wantedY);
      for (let row = low; row <= high; row += 1) {
        for (let place = starts[row * cells + left]; place < starts[row * cells + right + 1]; place += 1) {
          const i = at[place];
          const squared = (x[i] / 65535 - wantedX) ** 2 + (y[i] / 65535 - wantedY) ** 2;
          if (squared < least) [best, least] = [i, squared];
        }
      }
      return best;
    };
  }

  function placed() {
    const width = frame.clientWidth;
    const height = frame.clientHeight;
    const [wide, tall] = map.ends.map(([low, high]) => Math.max(high - low, 0.05));
    const side = Math.min((width - 24) / wide, (height - 24) / tall) * view.zoom;
    const [left, top] = [width / 2 - view.x * side, height / 2 - (1 - view.y) * side];
    return { width, height, side, left, top, ratio: Math.min(devicePixelRatio || 1, 2), grown: Math.min(view.zoom ** 0.5, 3) };
  }

  let waiting = false;
  function draw() {
    if (waiting || !drawer) return;
    waiting = true;
    requestAnimationFrame(drawNow);
  }

  function drawNow() {
    waiting = false;
    const place = placed();
    const [width, height] = [place.width, place.height].map((pixels) => Math.round(pixels * place.ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    drawer.draw(place);
    Object.assign(frame.dataset, { drawn: drawer.kind, points: map.points, zoom: view.zoom.toFixed(2) });
  }

  function restyle() {
    const style = winnow.mapStyle.style(map, colorBy.value, chosen);
    drawer.restyle(style);
    winnow.mapStyle.showLegend(document.getElementById("map-legend"), style.legend);
    draw();
  }

  function start() {
    try {
      drawer = winnow.drawers.webgl(canvas, map);
    } catch (error) {
      frame.dataset.fallback = error.message;
    }
    if (!drawer) drawPlainly();
    canvas.addEventListener("webglcontextlost", drawPlainly, { once: true });
    restyle();
  }

  // A canvas that had a WebGL context gives no other, so a new one takes its place.
  function drawPlainly() {
    const fresh = canvas.cloneNode();
    canvas.replaceWith(fresh);
    canvas = fresh;
    drawer = winnow.drawers.plain(canvas, map);
    restyle();
  }

  // Keep the point under (px, py) where it is while the zoom changes.
  function zoomBy(factor, px = frame.clientWidth / 2, py = frame.clientHeight / 2) {
    const before = placed();
    const zoom = Math.min(Math.max(view.zoom * factor, 1), 60);
    const ratio = zoom / view.zoom;
    view.zoom = zoom;
    view.x += ((px - before.width / 2) / before.side) * (1 - 1 / ratio);
    view.y -= ((py - before.height / 2) / before.side) * (1 - 1 / ratio);
    keepInside();
  }

  function panBy(dx, dy) {
    const { side } = placed();
    view.x -= dx / side;
    view.y += dy / side;
    keepInside();
  }

  function keepInside() {
    [view.x, view.y] = [view.x, view.y].map((value, i) => Math.min(Math.max(value, map.ends[i][0]), map.ends[i][1]));
    hideTip();
    draw();
  }

  function reset() {
    Object.assign(view, { zoom: 1, x: map.middle[0], y: map.middle[1] });
    hideTip();
    draw();
  }

  function pointAt(px, py) {
    const { side, left, top } = placed();
    return near((px - left) / side, 1 - (py - top) / side, 12 / side);
  }

  function scoreText(i) {
    const { name, low, high } = map.score_range;
    if (!name) return null;
    return map.score[i] === 0 ? `${name} not measured` : `${name} ${(low + ((map.score[i] - 1) / 65534) * (high - low)).toPrecision(3)}`;
  }

  function showTip(i, px, py) {
    if (i === hovered) return;
    hovered = i;
    const text = map.textOf.get(i);
    const facts = [map.sources[map.source[i]], `group ${map.cluster[i]}: ${map.names[map.cluster[i]] ?? ""}`, map.outcome_words[map.outcome[i]], scoreText(i)];
    tip.replaceChildren(...facts.filter(Boolean).map((fact) => winnow.element("div", fact)));
    if (text !== undefined) {
      tip.prepend(winnow.element("code", map.texts.id[text]));
      tip.append(winnow.element("p", map.texts.text[text], { dir: "auto" }));
    }
    tip.hidden = false;
    tip.style.left = `${Math.max(4, Math.min(px + 14, frame.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${py + tip.offsetHeight + 18 > frame.clientHeight ? Math.max(4, py - tip.offsetHeight - 12) : py + 14}px`;
  }

  function hideTip() {
    hovered = -1;
    tip.hidden = true;
  }

  // One pointer drags, two pinch; a press that does not move chooses the cluster of the point under it.
  const down = new Map();
  let moved = 0;
  const local = (event) => [event.clientX - frame.getBoundingClientRect().left, event.clientY - frame.getBoundingClientRect().top];
  frame.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button")) return;
    if (down.size === 0) moved = 0;
    down.set(event.pointerId, local(event));
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    const [px, py] = local(event);
    const before = down.get(event.pointerId);
    if (!before) {
      const i = pointAt(px, py);
      return i < 0 ? hideTip() : showTip(i, px, py);
    }
    const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const apart = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
      zoomBy(apart([px, py]) / Math.max(apart(before), 1), (px + other[0]) / 2, (py + other[1]) / 2);
    }
    panBy((px - before[0]) / down.size, (py - before[1]) / down.size);
    moved += Math.hypot(px - before[0], py - before[1]) + (other ? 99 : 0);
    down.set(event.pointerId, [px, py]);
  });
  frame.addEventListener("pointerup", (event) => {
    if (!down.delete(event.pointerId) || moved > 5) return;
    const [px, py] = local(event);
    const i = pointAt(px, py);
    if (i >= 0) {
      showTip(i, px, py);
      winnow.choose(map.cluster[i]);
    }
  });
  frame.addEventListener("pointercancel", (event) => down.delete(event.pointerId));
  frame.addEventListener("pointerleave", () => { if (!down.size) hideTip(); });
  // The wheel scrolls the page unless the map has the focus, so scrolling past it works.
  frame.addEventListener("wheel", (event) => {
    if (document.activeElement !== frame && !event.ctrlKey) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * 0.002), ...local(event));
  }, { passive: false });
  const keys = {
    "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: reset, Escape: () => winnow.choose(null),
    ArrowLeft: () => panBy(40, 0), ArrowRight: () => panBy(-40, 0), ArrowUp: () => panBy(0, 40), ArrowDown: () => panBy(0, -40),
  };
  frame.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  const buttons = { "map-in": () => zoomBy(1.5), "map-out": () => zoomBy(1 / 1.5), "map-reset": reset };
  Object.entries(buttons).forEach(([id, act]) => document.getElementById(id).addEventListener("click", act));
  colorBy.addEventListener("change", restyle);
  choice?.addEventListener("change", () => winnow.choose(choice.value === "" ? null : Number(choice.value)));
  winnow.onChoice((cluster) => {
    chosen = cluster;
    if (choice) choice.value = cluster === null ? "" : String(cluster);
    if (drawer) restyle();
  });
  new ResizeObserver(draw).observe(frame);
  for (const media of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(media).addEventListener("change", () => drawer && restyle());
  }
  addEventListener("beforeprint", () => { if (!drawer) start(); drawNow(); });
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    start();
  }, { rootMargin: "600px" });
  seen.observe(frame);
}, () => {});
