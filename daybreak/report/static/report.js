// The moving parts of the report: theme, curves (uPlot), samples, filters. The page reads without them.
// Errors are kept in data-errors of the root element, where a test, or whoever is asked for them, finds them.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  const complain = (text) => { root.dataset.errors = `${root.dataset.errors || ""}${text}\n`; };
  addEventListener("error", (event) => complain(event.message));
  addEventListener("unhandledrejection", (event) => complain(String(event.reason)));
  document.addEventListener("securitypolicyviolation", (event) => complain(`refused: ${event.violatedDirective} ${event.blockedURI}`));

  // Where pages from disk may keep nothing, the choice of a theme lasts as long as the page.
  const remember = (value) => { try { localStorage.setItem("daybreak-theme", value); } catch { /* as above */ } };
  const remembered = () => { try { return localStorage.getItem("daybreak-theme"); } catch { return null; } };
  const chosen = remembered();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const short = (value, digits = 4) => {
    for (const [size, letter] of UNITS) if (Math.abs(value) >= size * 0.9999) return `${+(value / size).toPrecision(digits)}${letter}`;
    return `${+value.toPrecision(digits)}`;
  };
  const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const power = (value) => {
    if (!(value > 0)) return "0";
    const exponent = Math.floor(Math.log10(value) + 1e-9);
    if (exponent < 5 && exponent > -4) return `${+value.toPrecision(3)}`;
    const raised = String(Math.abs(exponent)).replace(/\d/g, (digit) => RAISED[digit]);
    const factor = +(value / 10 ** exponent).toPrecision(3);
    return `${factor === 1 ? "" : `${factor}·`}10${exponent < 0 ? "⁻" : ""}${raised}`;
  };
  const TIMES = [[172800, 86400, "days"], [7200, 3600, "hours"], [180, 60, "minutes"], [0, 1, "seconds"]];

  // Each chart: how a value is written, how high it is drawn, whether its axis begins at zero, and whether it has a lid: at first the
  // frame is fitted to what comes after the first 3 % of the run, whose fall would flatten all the rest.
  const CHARTS = {
    loss: { format: (v) => v.toFixed(4), height: 360, lidded: true },
    bits_per_byte: { format: (v) => v.toFixed(4), height: 200 },
    learning_rate: { format: power, height: 200, fromZero: true },
    grad_norm: { format: (v) => `${+v.toPrecision(4)}`, height: 200, fromZero: true },
    tokens_per_second: { format: (v) => short(v), height: 200, fromZero: true },
  };

  let runs = [];
  let drawn = [];
  const view = { axis: "tokens", logX: false, logY: new Set() };

  /** One of a run's curves as [x, y] on the chosen axis, without the points that the axes cannot show. */
  function columns(run, name, field, logY) {
    const curve = run.curves[name];
    const factor = view.axis === "flops" ? run.flops_per_token : 1;
    const from = curve && curve[view.axis === "flops" ? "tokens" : view.axis];
    const xs = [], ys = [];
    if (!curve || !factor) return [xs, ys];
    for (let i = 0; i < from.length; i++) {
      const x = from[i] === null ? null : from[i] * factor, y = curve[field][i];
      if (x === null || y === null || (view.logX && x <= 0) || (logY && y <= 0)) continue;
      xs.push(x); ys.push(y);
    }
    return [xs, ys];
  }

  /** The lines of a chart: what they are called, how they look, and their points. */
  function lines(name, logY) {
    const found = [];
    const add = (run, curve, field, look) => {
      const points = columns(run, curve, field, logY);
      if (points[0].length) found.push({ ...look, points });
    };
    const several = runs.length > 1;
    runs.forEach((run, i) => {
      const own = colour(`--run-${i % 8}`), called = (what) => (several ? `${run.name} · ${what}` : what);
      const dotted = { width: 1.2, dash: several ? [4, 4] : undefined, dots: true };
      if (name === "loss") {
        if (!several) add(run, "loss", "values", { label: "training, each step", stroke: colour("--raw"), width: 1 });
        add(run, "loss", "smooth", { label: called("training, smoothed"), stroke: several ? own : colour("--train"), width: 2 });
        add(run, "val_loss", "values", { ...dotted, label: called("validation"), stroke: several ? own : colour("--val") });
      } else {
        const label = several ? run.name : name.replaceAll("_", " ");
        const look = name === "bits_per_byte" ? { ...dotted, dash: undefined } : { width: 1.5 };
        add(run, name, "values", { ...look, label, stroke: several ? own : colour(name === "bits_per_byte" ? "--val" : "--train") });
      }
    });
    return found;
  }

  /** Marks of a logarithmic axis: powers of ten and what there is room for between them, or evenly where all is near.
      A mark takes `gap` of the `room` pixels. */
  function logSplits(low, high, room, gap) {
    const decades = Math.log10(high / low);
    if (decades < 0.6) {
      const raw = (high - low) / Math.max(2, Math.min(6, room / gap)), unit = 10 ** Math.floor(Math.log10(raw));
      const step = [1, 2, 5, 10].map((f) => f * unit).find((s) => s >= raw) || unit, marks = [];
      for (let k = Math.ceil(low / step); k * step <= high; k++) marks.push(+(k * step).toPrecision(12));
      return marks;
    }
    const free = room / decades / gap, marks = [];  // marks per decade
    const factors = free > 7 ? [1, 2, 3, 5, 7] : free > 3.4 ? [1, 2, 5] : free > 2.1 ? [1, 3] : [1];
    const stride = Math.max(1, Math.ceil(1 / free));
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += stride) {
      for (const f of factors) {
        const mark = +(f * 10 ** e).toPrecision(12);
        if (mark >= low * 0.999999 && mark <= high * 1.000001) marks.push(mark);
      }
    }
    return marks;
  }

  function axis(log, format, extra) {
    const made = {
      stroke: colour("--soft"), font: `12px ${getComputedStyle(document.body).fontFamily}`,
      grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, gap: 6,
      values: (_, splits) => splits.map((v) => (v === null ? "" : format(v))), ...extra,
    };
    if (log) { made.splits = (u, i, low, high) => logSplits(low, high, u.bbox[i ? "height" : "width"] / devicePixelRatio, i ? 24 : 52); made.filter = (_, splits) => splits; }
    return made;
  }

  /** How the x axis is written, and its name. */
  function clock(highest) {
    if (view.axis === "seconds") {
      const [, unit, name] = TIMES.find(([from]) => highest >= from);
      return { name: `${name} of training`, format: (v) => `${+(v / unit).toPrecision(4)}`, unit };
    }
    if (view.axis === "flops") return { name: "FLOPs", format: power, unit: 1 };
    return { name: view.axis, format: (v) => short(v), unit: 1 };
  }

  /** Thin lines where the run was resumed, stopped or skipped a step. */
  function marks(u) {
    if (runs.length !== 1) return;
    const { ctx, bbox } = u, scale = devicePixelRatio || 1;
    ctx.save();
    ctx.lineWidth = scale;
    ctx.setLineDash([3 * scale, 3 * scale]);
    for (const mark of runs[0].marks) {
      const x = view.axis === "flops" ? mark.tokens * runs[0].flops_per_token : mark[view.axis];
      if (x === null || !(x >= u.scales.x.min && x <= u.scales.x.max) || (view.logX && x <= 0)) continue;
      const at = Math.round(u.valToPos(x, "x", true));
      ctx.strokeStyle = colour(mark.kind === "resume" ? "--warn" : "--bad");
      ctx.beginPath();
      ctx.moveTo(at, mark.kind === "skip" ? bbox.top + bbox.height - 10 * scale : bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** The highest point of any line from some x on. */
  function highestAfter(found, from) {
    let highest = -Infinity;
    for (const { points: [xs, ys] } of found) xs.forEach((x, i) => { if (x >= from) highest = Math.max(highest, ys[i]); });
    return highest;
  }

  function draw(figure) {
    const name = figure.dataset.chart, kind = CHARTS[name], place = figure.querySelector(".plot"), logY = view.logY.has(name);
    const found = lines(name, logY);
    place.replaceChildren();
    place.classList.remove("drawn");
    if (!found.length) { place.textContent = "nothing to draw on this axis"; return null; }
    const table = uPlot.join(found.map((line) => line.points));
    const time = clock(table[0][table[0].length - 1]);
    let shown = [0, 0];
    const xRange = (u, low, high) => {
      if (low === null) return [1, 10];
      shown = low < high ? [low, high] : view.logX ? [low / 2, high * 2] : [low * 0.5, high * 1.5 || 1];
      return shown;
    };
    const first = table[0][0], last = table[0][table[0].length - 1];
    const lid = kind.lidded && !logY && !view.logX ? highestAfter(found, first + 0.03 * (last - first)) : Infinity;
    const notice = figure.querySelector(".lid");
    const yRange = (u, low, high) => {
      if (low === null || high === null) return [0, 1];
      const covered = shown[0] <= first && shown[1] >= last && high > lid + 0.3 * (lid - low);
      if (notice) notice.hidden = !covered;
      if (covered) return [low - 0.06 * (lid - low), lid + 0.06 * (lid - low)];
      if (logY) return low < high ? [low / (high / low) ** 0.04, high * (high / low) ** 0.04] : [low / 2, high * 2];
      const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
      return [kind.fromZero && low >= 0 ? 0 : low - pad, high + pad];
    };
    const label = { label: time.name, labelSize: 20, labelGap: 0, labelFont: `12px ${getComputedStyle(document.body).fontFamily}` };
    const options = {
      width: place.clientWidth || 300,
      height: kind.height,
      scales: {
        x: { time: false, distr: view.logX ? 3 : 1, range: xRange },
        y: { distr: logY ? 3 : 1, range: yRange },
      },
      axes: [
        axis(view.logX, time.format, { ...(name === "loss" ? label : {}), size: 32, incrs: ticks(time.unit) }),
        axis(logY, name === "learning_rate" ? power : (v) => short(v), { size: 54 }),
      ],
      series: [
        { label: time.name, value: (_, v) => (v === null || v === undefined ? "–" : time.format(v)) },
        ...found.map((line) => ({
          label: line.label, stroke: line.stroke, width: line.width, dash: line.dash, spanGaps: true,
          points: line.dots ? { show: line.points[0].length <= 150, size: 5, fill: line.stroke, stroke: line.stroke, width: 0 } : { size: 5 },
          value: (_, v) => (v === null || v === undefined ? "–" : kind.format(v)),
        })),
      ],
      cursor: { sync: { key: "daybreak", scales: ["x", null] }, drag: { x: true, y: false, dist: 5 }, hover: { skip: [null, undefined] }, points: { size: 7 } },
      hooks: { draw: name === "loss" ? [marks] : [] },
    };
    const plot = new uPlot(options, table, place);
    place.classList.add("drawn");
    return { plot, place };
  }

  /** Steps between marks that are round in the unit that is shown. */
  function ticks(unit) {
    const steps = [];
    for (let e = unit === 1 ? 0 : -3; e < 26; e++) for (const f of [1, 2, 5]) steps.push(f * 10 ** e * unit);
    return steps;
  }

  function drawAll() {
    for (const one of drawn) one.plot.destroy();
    drawn = [...document.querySelectorAll("figure[data-chart]")].map(draw).filter(Boolean);
  }

  function tend() {
    runs = JSON.parse(document.getElementById("run-data").textContent).runs;
    const listen = (element, kind, act) => element && element.addEventListener(kind, act);
    const byId = (name) => document.getElementById(name);
    listen(byId("theme"), "click", () => { root.dataset.theme = isDark() ? "light" : "dark"; remember(root.dataset.theme); drawAll(); });
    prefersDark.addEventListener("change", drawAll);
    for (const radio of document.querySelectorAll("input[name=axis]")) {
      if (radio.checked) view.axis = radio.value;
      listen(radio, "change", () => { view.axis = radio.value; drawAll(); });
    }
    const logX = byId("log-x");
    if (logX) view.logX = logX.checked;
    listen(logX, "change", () => { view.logX = logX.checked; drawAll(); });
    listen(byId("reset"), "click", drawAll);
    for (const box of document.querySelectorAll(".log-y")) {
      const note = () => (box.checked ? view.logY.add(box.dataset.for) : view.logY.delete(box.dataset.for));
      note();
      listen(box, "change", () => { note(); drawAll(); });
    }
    drawAll();
    let waiting = 0;
    addEventListener("resize", () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => {
        for (const { plot, place } of drawn) if (plot.width !== place.clientWidth) plot.setSize({ width: place.clientWidth, height: plot.height });
      });
    });
    document.querySelectorAll(".samples").forEach(leaf);
    document.querySelectorAll(".filtered").forEach(sift);
  }

  /** Shows one step's samples, chosen with the slider. */
  function leaf(box) {
    const slider = box.querySelector("input[type=range]"), pages = [...box.querySelectorAll(".sample")];
    if (!slider) return;
    box.classList.add("leafed");
    const show = () => {
      pages.forEach((page, i) => page.classList.toggle("shown", i === +slider.value));
      box.querySelector("output").textContent = pages[+slider.value].dataset.label;
    };
    slider.addEventListener("input", show);
    show();
  }

  /** Hides the rows that do not hold what is written in the filter. */
  function sift(box) {
    const search = box.querySelector(".filter"), only = box.querySelector(".only-differing");
    if (!search) return;
    const rows = [...box.querySelectorAll("tbody tr")];
    const act = () => {
      const wanted = search.value.trim().toLowerCase();
      for (const row of rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted) || (only !== null && only.checked && !row.querySelector(".differs"));
      }
    };
    search.addEventListener("input", act);
    if (only) only.addEventListener("change", act);
  }

  addEventListener("DOMContentLoaded", tend);
})();
