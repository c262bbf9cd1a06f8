"use strict";
// What colour and size each point of the map has, by what the reader asks to see, and the legend that says so.
winnow.mapStyle = (() => {
  const EDGED = 128;
  const CATEGORIES = 8;

  function palette() {
    const css = getComputedStyle(document.documentElement);
    const rgb = (role) => {
      const hex = css.getPropertyValue(`--${role}`).trim();
      return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    };
    const several = (name, count) => Array.from({ length: count }, (_, i) => rgb(`${name}-${i + 1}`));
    return { rgb, categories: several("category", CATEGORIES), scale: several("scale", 5), none: rgb("axis"), ink: rgb("ink") };
  }

  // A colour of the scale at a share from 0 to 1.
  function shade(scale, share) {
    const at = Math.min(Math.max(share, 0), 1) * (scale.length - 1);
    const low = Math.min(Math.floor(at), scale.length - 2);
    return scale[low].map((part, i) => Math.round(part + (at - low) * (scale[low + 1][i] - part)));
  }

  const grouped = (codes, names) => {
    const counts = names.map(() => 0);
    for (const code of codes) counts[code] += 1;
    return counts;
  };

  // Each way gives the colour of each code of `codes` (a typed array), and rows of the legend: [colour or null, text, count or null].
  const ways = {
    outcome(map, colors) {
      const role = { picked: "selected", trained: "previous", noise: "control", left: "base", aside: "axis" };
      const byGroup = map.groups.map(([key]) => colors.rgb(role[key]));
      const codes = map.outcome.map((code) => map.group_of[code]);
      const counts = grouped(codes, map.groups);
      return { codes, colors: byGroup, legend: map.groups.map(([, text], i) => [byGroup[i], text, counts[i]]) };
    },
    cluster(map, colors) {
      const codes = map.cluster.map((cluster) => cluster % CATEGORIES);
      const text = `Groups share ${CATEGORIES} colours; click a point to ring its group.`;
      return { codes, colors: colors.categories, legend: [[null, text, null]] };
    },
    source(map, colors) {
      const shown = Math.min(map.sources.length, CATEGORIES - 1);
      const codes = map.source.map((source) => Math.min(source, shown));
      const used = [...colors.categories.slice(0, shown), colors.none];
      const counts = grouped(codes, used);
      const legend = map.sources.slice(0, shown).map((name, i) => [used[i], name, counts[i]]);
      if (map.sources.length > shown) legend.push([colors.none, `${map.sources.length - shown} other sources`, counts[shown]]);
      return { codes, colors: used, legend };
    },
    score(map, colors) {
      const { name, low, high, shown_low: from, shown_high: to } = map.score_range;
      const steps = 32;
      const shareOf = (value) => (low + ((value - 1) / 65534) * (high - low) - from) / Math.max(to - from, 1e-12);
      const codes = map.score.map((value) => (value === 0 ? 0 : 1 + Math.round(Math.min(Math.max(shareOf(value), 0), 1) * steps)));
      const used = [colors.none, ...Array.from({ length: steps + 1 }, (_, i) => shade(colors.scale, i / steps))];
      const ends = [[used[1], `${name} ${from.toPrecision(3)} or less`], [used[1 + steps / 2], "between"], [used[1 + steps], `${to.toPrecision(3)} or more`]];
      const without = codes.reduce((sum, code) => sum + (code === 0), 0);
      return { codes, colors: used, legend: [...ends.map(([color, text]) => [color, text, null]), [colors.none, "not measured", without]] };
    },
    round(map, colors) {
      const rounds = [...new Set(map.round)].filter((number) => number > 0).sort((a, b) => a - b);
      const place = new Map(rounds.map((number, i) => [number, i + 1]));
      const codes = map.round.map((number) => place.get(number) || 0);
      const used = [colors.none, ...rounds.map((_, i) => shade(colors.scale, rounds.length > 1 ? i / (rounds.length - 1) : 0.3))];
      const counts = grouped(codes, used);
      const legend = rounds.map((number, i) => [used[i + 1], `picked in round ${number}`, counts[i + 1]]);
      return { codes, colors: used, legend: [...legend, [colors.none, "never picked", counts[0]]] };
    },
  };

  // The style of every point; `chosen` is a cluster or null. Picked points are large and have an edge, so nothing hangs on colour alone.
  function style(map, way, chosen) {
    const colors = palette();
    const { codes, colors: used, legend } = ways[way](map, colors);
    const n = map.points;
    const color = new Uint8Array(4 * n);
    const size = new Uint8Array(n);
    const layer = new Uint8Array(n);
    const [small, large] = sizes(map, n);
    for (let i = 0; i < n; i += 1) {
      const isPicked = map.outcome[i] === map.picked_code;
      const isGrey = used[codes[i]] === colors.none;
      const isChosen = chosen !== null && map.cluster[i] === chosen;
      color.set(used[codes[i]], 4 * i);
      color[4 * i + 3] = chosen !== null && !isChosen ? 45 : isPicked ? 255 : isGrey ? 110 : 170;
      size[i] = isPicked ? large + EDGED : isChosen ? small + 6 : small;
      layer[i] = (isChosen ? 4 : 0) + (isPicked ? 2 : 0) + (isGrey ? 0 : 1);
    }
    return { color, size, order: byLayer(layer), edge: colors.ink, legend };
  }

  // Sizes in quarters of a pixel: the more points there are, the smaller, so that picked ones do not hide the rest.
  function sizes(map, n) {
    const picked = map.outcome.reduce((sum, code) => sum + (code === map.picked_code), 0);
    const within = (low, value, high) => Math.round(Math.min(Math.max(value, low), high));
    return [within(6, 16 * (2000 / n) ** 0.25, 16), within(14, 32 * (200 / Math.max(picked, 1)) ** 0.25, 32)];
  }

  function byLayer(layer) {
    const starts = new Uint32Array(9);
    for (const value of layer) starts[value + 1] += 1;
    for (let i = 1; i < 9; i += 1) starts[i] += starts[i - 1];
    const order = new Uint32Array(layer.length);
    layer.forEach((value, i) => { order[starts[value]++] = i; });
    return order;
  }

  function showLegend(place, legend) {
    place.replaceChildren(...legend.map(([color, text, count]) => {
      const row = winnow.element("li");
      if (color) {
        const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
        swatch.setAttribute("viewBox", "0 0 10 10");
        swatch.setAttribute("class", "swatch");
        Object.entries({ cx: 5, cy: 5, r: 4.5, fill: `rgb(${color.join(",")})` }).forEach(([name, value]) => dot.setAttribute(name, value));
        swatch.append(dot);
        row.append(swatch);
      }
      row.append(winnow.element("bdi", text));
      if (count !== null) row.append(" ", winnow.number(count, winnow.count(count), { derived: "points of the map" }));
      return row;
    }));
  }

  return { style, showLegend };
})();
