"use strict";
/* Charts of one run: power with cap states, the worst minute, latency. Colours come from the page's style. */
const charts = (() => {
  const NO_VALUE = 65535, BRAKED_BIT = 128, LEAST_ODDS = -2, MOST_ODDS = 4;
  const AXIS_FONT = "12px system-ui, sans-serif";
  const DAY = 86400, HOUR = 3600;
  const TIME_STEPS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR,
    DAY, 2 * DAY, 3 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 56 * DAY, 112 * DAY, 224 * DAY, 448 * DAY];

  const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const words16 = (text) => new Uint16Array(bytes(text).buffer);
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const kilowatts = (text, step_w) => Array.from(words16(text), (q) => (q === NO_VALUE ? null : q * step_w / 1000));
  const capped = (text) => {
    const all = bytes(text);
    return { percent: Array.from(all, (b) => b & (BRAKED_BIT - 1)), braked: Array.from(all, (b) => b >= BRAKED_BIT) };
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  const two = (value) => String(value).padStart(2, "0");
  const clock = (at_s, with_s) => {
    const s = Math.round(at_s), day = Math.floor(s / DAY) + 1;
    const time = two(Math.floor(s % DAY / HOUR)) + ":" + two(Math.floor(s % HOUR / 60));
    return "day " + day + " " + time + (with_s ? ":" + two(s % 60) : "");
  };
  const duration = (value_s) => {
    if (value_s === null || value_s === undefined) return "";
    const [size, unit] = value_s >= 1 ? [1, "s"] : value_s >= 1e-3 ? [1e-3, "ms"] : [1e-6, "µs"];
    return String(+(value_s / size).toPrecision(3)) + "\u00a0" + unit;
  };
  const dayTicks = (u, splits, axis, space, step) => splits.map((s) => {
    if (step >= DAY) return "day " + (Math.floor(s / DAY) + 1);
    const time = two(Math.floor(s % DAY / HOUR)) + ":" + two(Math.floor(s % HOUR / 60));
    return s % DAY === 0 ? "day " + (Math.floor(s / DAY) + 1) : time + (step < 60 ? ":" + two(s % 60) : "");
  });

  const axis = (more) => ({
    stroke: colour("muted"), font: AXIS_FONT, grid: { stroke: colour("grid"), width: 1 },
    ticks: { stroke: colour("line"), width: 1, size: 5 }, ...more,
  });
  const legend = (u) => ({ live: true, markers: { width: 2, dash: (plot, i) => (plot.series[i].dash ? "dashed" : "solid") }, ...u });

  /* Diagonal lines, so that the brake is seen without colour. */
  const hatch = (ctx) => {
    const size = Math.round(8 * uPlot.pxRatio), tile = document.createElement("canvas");
    tile.width = tile.height = size;
    const pen = tile.getContext("2d");
    pen.fillStyle = colour("brake-fill");
    pen.fillRect(0, 0, size, size);
    pen.strokeStyle = colour("brake");
    pen.lineWidth = uPlot.pxRatio;
    for (const shift of [-size, 0, size]) {
      pen.moveTo(shift, size);
      pen.lineTo(shift + size, 0);
    }
    pen.stroke();
    return ctx.createPattern(tile, "repeat");
  };

  const spans = (flags) => {
    const found = [];
    flags.forEach((on, i) => {
      if (!on) return;
      if (i && flags[i - 1]) found[found.length - 1][1] = i + 1;
      else found.push([i, i + 1]);
    });
    return found;
  };

  const drawBrakes = (braked, step_s) => (u) => {
    const { ctx, bbox } = u, all = spans(braked);
    if (!all.length) return;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = hatch(ctx);
    let said = -Infinity;
    for (const [from, to] of all) {
      const left = u.valToPos(from * step_s, "x", true), right = u.valToPos(to * step_s, "x", true);
      ctx.fillRect(left, bbox.top, Math.max(right - left, 2 * uPlot.pxRatio), bbox.height);
      if (left > said && right > bbox.left && left < bbox.left + bbox.width) {
        label(u, "brake", Math.max(left, bbox.left) + 3 * uPlot.pxRatio, bbox.top + 13 * uPlot.pxRatio, colour("brake"));
        said = left + 120 * uPlot.pxRatio;
        ctx.fillStyle = hatch(ctx);
      }
    }
    ctx.restore();
  };

  const label = (u, text, x, y, ink) => {
    const { ctx } = u;
    ctx.save();
    ctx.font = "600 " + Math.round(11.5 * uPlot.pxRatio) + "px system-ui, sans-serif";
    ctx.lineWidth = 4 * uPlot.pxRatio;
    ctx.lineJoin = "round";
    ctx.strokeStyle = colour("surface");
    ctx.fillStyle = ink;
    ctx.strokeText(text, x, y);
    ctx.fillText(text, x, y);
    ctx.restore();
  };

  const drawLines = (lines) => (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    for (const { at_kw, text, ink, dash, width } of lines) {
      const y = Math.round(u.valToPos(at_kw, "kw", true));
      if (y < bbox.top || y > bbox.top + bbox.height) continue;
      ctx.beginPath();
      ctx.setLineDash(dash.map((d) => d * uPlot.pxRatio));
      ctx.strokeStyle = ink;
      ctx.lineWidth = width * uPlot.pxRatio;
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      label(u, text, bbox.left + 6 * uPlot.pxRatio, y - 4 * uPlot.pxRatio, ink);
    }
    ctx.restore();
  };

  const budgetLines = (budget_kw, run) => (budget_kw === null ? [] : [
    { at_kw: budget_kw, text: "budget " + budget_kw.toFixed(1) + " kW", ink: colour("budget"), dash: [], width: 2 },
    { at_kw: budget_kw * run.t2, text: "T2 " + +(100 * run.t2).toFixed(1) + " %", ink: colour("threshold"), dash: [7, 4], width: 1.25 },
    { at_kw: budget_kw * run.t1, text: "T1 " + +(100 * run.t1).toFixed(1) + " %", ink: colour("threshold"), dash: [2, 3], width: 1.25 },
  ]);

  const kwText = (u, value) => (value === null || value === undefined ? "–" : value.toFixed(1) + " kW");

  /* Two charts over one time axis: power above, capped share below. Zooming one zooms the other. */
  const pair = (places, lists, look) => {
    const sync = uPlot.sync(look.key);
    const plots = [];
    let following = false;
    const follow = (u, scale) => {
      if (scale !== "x" || following) return;
      following = true;
      for (const other of plots) if (other !== u) other.setScale("x", { min: u.scales.x.min, max: u.scales.x.max });
      following = false;
    };
    const narrow = places[0].clientWidth < 480;
    const cursor = { sync: { key: sync.key, scales: ["x", null] }, y: false, drag: { x: true, y: false }, points: { size: 6 } };
    const size = 56, edge = look.budget_kw === null ? 12 : 52;
    const values = [...lists.series.flatMap((one) => one.values), look.budget_kw].filter((v) => v !== null);
    const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), 0);
    const pad = Math.max(0.06 * (high - low), 0.5);
    const x = { time: false, range: (u, min, max) => [min, max] };
    const plot = (place, height, scales, axes, series, lists_, hooks, bands) => {
      const u = new uPlot({
        width: Math.max(place.clientWidth, 200), height, cursor, scales, axes, series, bands, legend: legend(),
        padding: [10, edge === 12 ? 12 : 0, 0, 0], hooks: { ...hooks, setScale: [follow] },
      }, lists_, place);
      plots.push(u);
      return u;
    };
    const top = plot(places[0], narrow ? 250 : 310,
      { x, kw: { range: [Math.max(0, low - pad), high + pad] },
        pct: { from: "kw", range: (u, min, max) => [100 * min / look.budget_kw, 100 * max / look.budget_kw] } },
      [axis({ incrs: TIME_STEPS, values: look.ticks, size: 30, space: narrow ? 52 : 76 }),
        axis({ scale: "kw", size, values: (u, all) => all.map((v) => +v.toFixed(3) + (v === all[all.length - 1] ? " kW" : "")) }),
        ...(look.budget_kw === null ? [] : [axis({ scale: "pct", side: 1, size: edge, grid: { show: false }, values: (u, all) => all.map((v) => v + " %") })])],
      [{ label: look.time, value: look.at }, ...lists.series.map((one) => ({ scale: "kw", value: kwText, points: { show: false }, ...one.style }))],
      [lists.x, ...lists.series.map((one) => one.values)],
      { drawClear: [drawBrakes(lists.caps.braked, lists.step_s)], draw: [drawLines(look.lines)] }, lists.bands);
    const below = plot(places[1], 104,
      { x, share: { range: [0, 108] } },
      [axis({ incrs: TIME_STEPS, values: (u, all) => all.map(() => ""), size: 8, space: narrow ? 52 : 76 }),
        axis({ scale: "share", size, splits: () => [0, 50, 100], values: (u, all) => all.map((v) => v + " %") }),
        ...(edge === 12 ? [] : [axis({ scale: "share", side: 1, size: edge, grid: { show: false }, ticks: { show: false }, values: (u, all) => all.map(() => "") })])],
      [{ label: look.time, value: look.at },
        { label: "servers capped", scale: "share", stroke: colour("cap"), fill: colour("cap-fill"), width: 1.25, points: { show: false },
          paths: uPlot.paths.stepped({ align: 1 }), value: (u, v, i, k) => (v === null || v === undefined ? "–" : v + " %" + (lists.caps.braked[k] ? ", brake" : "")) }],
      [lists.x, lists.caps.percent], { drawClear: [drawBrakes(lists.caps.braked, lists.step_s)] }, []);
    return [top, below];
  };

  const power = (places, run, budget_w) => {
    const p = run.power, budget_kw = budget_w === null ? null : budget_w / 1000;
    const [low, mean, high] = [p.low, p.mean, p.high].map((text) => kilowatts(text, p.step_w));
    const edge = { stroke: "transparent", width: 0 };
    return pair(places, {
      x: mean.map((_, i) => i * p.bin_s), step_s: p.bin_s, caps: capped(p.caps),
      bands: [{ series: [1, 3], fill: colour("band") }],
      series: [
        { values: high, style: { label: "highest 1 s", ...edge } },
        { values: mean, style: { label: "mean", stroke: colour("mean"), width: 1.5 } },
        { values: low, style: { label: "lowest 1 s", ...edge } },
      ],
    }, {
      key: "power", budget_kw, lines: budgetLines(budget_kw, run), ticks: dayTicks, time: "bin from",
      at: (u, s) => (s === null || s === undefined ? "–" : clock(s, p.bin_s < 60)),
    });
  };

  const worst = (places, run, budget_w) => {
    const p = run.power, budget_kw = budget_w === null ? null : budget_w / 1000;
    const drawn = kilowatts(p.worst, p.step_w), meter = kilowatts(p.worst_meter, p.step_w);
    return pair(places, {
      x: drawn.map((_, i) => i), step_s: 1, caps: capped(p.worst_caps), bands: [],
      series: [
        { values: drawn, style: { label: "drawn, 1 s", stroke: colour("mean"), width: 2 } },
        { values: meter, style: { label: "meter as delivered", stroke: colour("meter"), width: 1.5, dash: [6, 3], paths: uPlot.paths.stepped({ align: 1 }) } },
      ],
    }, {
      key: "worst", budget_kw, lines: budgetLines(budget_kw, run), time: "at",
      ticks: (u, all) => all.map((s) => s + " s"),
      at: (u, s) => (s === null || s === undefined ? "–" : s + " s"),
    });
  };

  /* Round values on a logarithmic axis, as many as fit without touching. */
  const logSplits = (u, min, max) => {
    const room = Math.log(max / min) * 52 * uPlot.pxRatio / Math.max(u.bbox.width, 1);
    for (const mantissas of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]]) {
      const all = [];
      for (let e = Math.floor(Math.log10(min)); e <= Math.ceil(Math.log10(max)); e++) {
        for (const m of mantissas) {
          const at = +(m * 10 ** e).toPrecision(6);
          if (at >= min && at <= max && (!all.length || Math.log(at / all[all.length - 1]) >= room)) all.push(at);
        }
      }
      if (all.length >= 3) return all;
    }
    /* Less than an octave: even steps do. */
    const rough = (max - min) / 4, size = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * size).find((one) => one >= rough);
    const first = Math.ceil(min / step), count = Math.floor(max / step) - first + 1;
    return Array.from({ length: count }, (_, i) => +((first + i) * step).toPrecision(6));
  };

  /* Odds p / (1 - p) in decades: the middle of a distribution and its tail are both readable. */
  const odds = (share) => Math.log10(share / (1 - share));
  const SHARES = [0.1, 0.5, 0.9, 0.99, 0.999];
  const SHOWN = [odds(0.05), odds(0.9995)];
  const shareText = (v) => {
    const share = 1 / (1 + 10 ** -v);
    return +(100 * share).toFixed(share < 0.98 ? 1 : share < 0.998 ? 2 : 3) + " %";
  };
  const unpacked = (text) => (text === null ? null
    : Array.from(words16(text), (q) => LEAST_ODDS + q / NO_VALUE * (MOST_ODDS - LEAST_ODDS)));

  const latency = (place, curve) => {
    const x = Array.from(floats(curve.value_s)), run = unpacked(curve.run), uncapped = unpacked(curve.uncapped);
    const empty = x.map(() => null), sides = [run, uncapped].filter((side) => side !== null);
    const inside = x.filter((_, i) => sides.some((side) => side[i] >= SHOWN[0] && side[i] <= SHOWN[1]));
    const seen = inside.length > 1 ? inside : x;
    const min = seen[0] / 1.03, max = seen[seen.length - 1] * 1.03;
    const value = (u, v) => (v === null || v === undefined ? "–" : shareText(v));
    return new uPlot({
      width: Math.max(place.clientWidth, 200), height: 220, legend: legend(), padding: [8, 14, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: false, distr: 3, range: () => [min, max] }, share: { range: () => SHOWN } },
      axes: [
        axis({ size: 30, splits: (u) => logSplits(u, min, max), filter: (u, all) => all, values: (u, all) => all.map(duration) }),
        axis({ scale: "share", size: 52, splits: () => SHARES.map(odds), filter: (u, all) => all,
          values: () => SHARES.map((share) => +(100 * share).toFixed(1) + " %") }),
      ],
      series: [
        { label: "at most", value: (u, v) => duration(v) || "–" },
        { label: "run", scale: "share", stroke: colour("mean"), width: 2, points: { show: false }, value },
        { label: "uncapped", scale: "share", stroke: colour("uncapped"), width: 1.75, dash: [5, 4], points: { show: false }, value },
      ],
    }, [x, run || empty, uncapped || empty], place);
  };

  return { power, worst, latency, clock };
})();
