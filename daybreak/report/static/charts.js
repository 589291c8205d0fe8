// Curves of one or several runs with uPlot: axes, smoothing, zoom by mouse, finger and keyboard, marks, references.
// The report draws once what is written in it, the live page again and again what it is sent; both give `charts.set(runs, references)`
// runs as report/drawable.py makes them. Errors are kept in data-errors of the root element, where a test finds them.
const daybreakCharts = (() => {
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
  // frame is fitted to what comes after the first 6 % of each run, whose fall would flatten all the rest.
  const CHARTS = {
    loss: { format: (v) => v.toFixed(4), height: 380, lidded: true },
    bits_per_byte: { format: (v) => v.toFixed(4), height: 200, dots: true, lidded: true },
    hellaswag: { format: (v) => `${(v * 100).toFixed(2)} %`, height: 200, dots: true },
    learning_rate: { format: power, height: 200, fromZero: true },
    grad_norm: { format: (v) => `${+v.toPrecision(4)}`, height: 200, fromZero: true, noisy: true, lidded: true },
    tokens_per_second: { format: (v) => short(v), height: 200, fromZero: true, noisy: true },
  };
  const MARKS = {
    resume: ["--warn", "resumed"], rollback: ["--bad", "went back"], stop: ["--bad", "stopped"],
    skip: ["--bad", "left out a step"], checkpoint: ["--train", "checkpoint"],
  };

  let runs = [], references = [], drawn = [];
  const view = { axis: "tokens", logX: false, logY: new Set(), smoothing: 4, hidden: new Set(), window: null, zoomed: () => {} };
  const shown = () => runs.map((run, i) => ({ run, i })).filter(({ run }) => !view.hidden.has(run.id ?? run.name));

  /** Where points lie on the chosen axis. */
  function places(run, curve) {
    const factor = view.axis === "flops" ? run.flops_per_token : 1;
    const from = curve && curve[view.axis === "flops" ? "tokens" : view.axis];
    return factor && from ? from.map((x) => (x === null ? null : x * factor)) : [];
  }

  /** The points that the axes can show. */
  function sifted(xs, ys, logY) {
    const across = [], up = [];
    for (let i = 0; i < xs.length; i++) {
      const x = xs[i], y = ys[i];
      if (x === null || y === null || (view.logX && x <= 0) || (logY && y <= 0)) continue;
      if (across.length && x <= across[across.length - 1]) continue;
      across.push(x); up.push(y);
    }
    return [across, up];
  }

  /** The moving average of all steps, from the means of stretches: a stretch of c steps weighs as c steps of its mean.
      The half-life is the run's length over 2^(12 - smoothing), so a finer look at a part is smoothed like the whole. */
  function smoothed(means) {
    if (!view.smoothing) return means.values;
    const half = Math.max(1, means.of / 2 ** (12 - view.smoothing));
    let average = 0, weight = 0;
    return means.values.map((value, i) => {
      const kept = 0.5 ** (means.counts[i] / half);
      average = kept * average + (1 - kept) * value;
      weight = kept * weight + (1 - kept);
      return weight ? average / weight : value;
    });
  }

  /** The lines of a chart: what they are called, how they look, and their points. */
  function lines(name, logY) {
    const found = [], kind = CHARTS[name], several = runs.length > 1;
    const add = (run, xs, ys, look) => {
      const points = sifted(xs, ys, logY);
      if (points[0].length) found.push({ ...look, points });
    };
    for (const { run, i } of shown()) {
      const own = colour(`--run-${i % 8}`), called = (what) => (several ? `${run.name}, ${what}` : what);
      const curve = run.curves[name], val = name === "loss" ? run.curves.val_loss : null;
      const dotted = { width: 1.4, dash: several ? [4, 4] : undefined, dots: true };
      if (curve) {
        const xs = places(run, curve), plain = name.replaceAll("_", " ");
        if (curve.means) {
          const raw = { label: called(name === "loss" ? "training, each step" : "each step"), stroke: several ? faded(own) : colour("--raw"), width: 1, pale: true };
          if (!several || !view.smoothing) add(run, xs, curve.values, raw);
          const label = several ? run.name : name === "loss" ? "training, smoothed" : "smoothed";
          if (view.smoothing) add(run, places(run, curve.means), smoothed(curve.means), { label, stroke: several ? own : colour("--train"), width: 2 });
        } else {
          const look = kind.dots ? { ...dotted, dash: undefined } : { width: 1.6 };
          add(run, xs, curve.values, { ...look, label: several ? run.name : plain, stroke: several ? own : colour(kind.dots ? "--val" : "--train") });
        }
      }
      if (val) add(run, places(run, val), val.values, { ...dotted, label: called("validation"), stroke: several ? own : colour("--val") });
    }
    if (found.length && view.axis === "tokens") found.push(...behind(name, found, logY));
    return found;
  }

  const faded = (value) => (/^#[0-9a-f]{6}$/i.test(value) ? `${value}88` : value);

  /** What others published, drawn behind as far as the runs themselves go. */
  function behind(name, found, logY) {
    const quantity = name === "loss" ? "val_loss" : name, made = [];
    const from = Math.min(...found.map((line) => line.points[0][0])), to = Math.max(...found.map((line) => line.points[0][line.points[0].length - 1]));
    for (const one of references.filter((reference) => reference.quantity === quantity)) {
      const look = { label: `${one.name}, ${one.text}`, stroke: colour("--faint"), width: 1.5, reference: true };
      if (!one.tokens.length) { made.push({ ...look, dash: [2, 5], points: sifted([from, to], [one.values[0], one.values[0]], logY) }); continue; }
      const xs = [], ys = [];
      one.tokens.forEach((x, k) => {
        if (x <= to) { xs.push(x); ys.push(one.values[k]); }
        else if (k && one.tokens[k - 1] < to) {
          const part = Math.log(to / one.tokens[k - 1]) / Math.log(x / one.tokens[k - 1]);
          xs.push(to); ys.push(one.values[k - 1] + part * (one.values[k] - one.values[k - 1]));
        }
      });
      if (xs.length) made.push({ ...look, dash: [8, 5], dots: true, points: sifted(xs, ys, logY) });
    }
    return made.filter((line) => line.points[0].length);
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
      stroke: () => colour("--soft"), font: `12px ${getComputedStyle(document.body).fontFamily}`,
      grid: { stroke: () => colour("--grid"), width: 1 }, ticks: { show: false }, gap: 6,
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

  const markedAt = (run, mark) => (view.axis === "flops" ? mark.tokens * run.flops_per_token : mark[view.axis]);

  /** Thin lines where a run was resumed, went back or stopped; ticks at the bottom for checkpoints and steps left out. */
  function marks(u) {
    const { ctx, bbox } = u, scale = devicePixelRatio || 1, several = shown().length > 1;
    ctx.save();
    for (const { run, i } of shown()) {
      for (const mark of run.marks) {
        const x = markedAt(run, mark), small = mark.kind === "checkpoint" || mark.kind === "skip";
        if (x === null || !(x >= u.scales.x.min && x <= u.scales.x.max) || (view.logX && x <= 0) || (several && mark.kind === "checkpoint")) continue;
        const at = Math.round(u.valToPos(x, "x", true)), bottom = bbox.top + bbox.height;
        ctx.strokeStyle = several ? colour(`--run-${i % 8}`) : colour(MARKS[mark.kind][0]);
        ctx.lineWidth = (small ? 1.5 : 1) * scale;
        ctx.setLineDash(small ? [] : [3 * scale, 3 * scale]);
        ctx.beginPath();
        ctx.moveTo(at, small ? bottom - (mark.kind === "skip" ? 14 : 7) * scale : bbox.top);
        ctx.lineTo(at, bottom);
        ctx.stroke();
      }
    }
    ctx.restore();
  }

  /** Says what is marked nearest the cursor. */
  function tell(u, place) {
    const { left } = u.cursor;
    let nearest = null, distance = 7;
    if (left >= 0) for (const { run } of shown()) for (const mark of run.marks) {
      const x = markedAt(run, mark), away = x === null ? Infinity : Math.abs(u.valToPos(x, "x") - left);
      if (away < distance || (away === distance && mark.kind !== "checkpoint")) { distance = away; nearest = { run, mark }; }
    }
    const output = place.parentElement.querySelector(".moment");
    if (!output) return;
    const name = nearest && runs.length > 1 ? `${nearest.run.name}: ` : "";
    output.textContent = nearest ? `${name}${MARKS[nearest.mark.kind][1]} at step ${nearest.mark.steps.toLocaleString("en")}${nearest.mark.said ? `: ${nearest.mark.said}` : ""}` : "";
  }

  /** The least and the highest of the lines, from some x to another, also where a line only passes through. */
  function reach(found, from, to) {
    let low = Infinity, high = -Infinity;
    const meet = (y) => { low = Math.min(low, y); high = Math.max(high, y); };
    for (const { points: [xs, ys] } of found) {
      xs.forEach((x, i) => {
        if (x >= from && x <= to) meet(ys[i]);
        if (i) for (const edge of [from, to]) if (xs[i - 1] < edge && edge < x) meet(ys[i - 1] + (ys[i] - ys[i - 1]) * (edge - xs[i - 1]) / (x - xs[i - 1]));
      });
    }
    return [low, high];
  }

  /** What a chart shows now: its lines, their table, and the frame. */
  function prepared(figure) {
    const name = figure.dataset.chart, kind = CHARTS[name], logY = view.logY.has(name), found = lines(name, logY);
    if (!found.length) return null;
    const table = uPlot.join(found.map((line) => line.points));
    const first = table[0][0], last = table[0][table[0].length - 1];
    const x = view.window ?? (first < last ? [first, last] : view.logX ? [first / 2, last * 2] : [first * 0.5, last * 1.5 || 1]);
    const own = found.filter((line) => !line.reference);
    let [low, high] = reach(own, x[0], x[1]);
    let covered = false;
    if (kind.lidded && !logY && !view.logX && !view.window) {
      const after = ({ points: [xs] }) => xs[0] + 0.06 * (xs[xs.length - 1] - xs[0]);
      const lid = Math.max(...own.map((line) => reach([line], after(line), last)[1]));
      covered = high > lid + 0.3 * (lid - low);
      if (covered) high = lid;
    }
    for (const line of found.filter((one) => one.reference && name === "loss")) {  // nearby references come into the frame, far ones do not stretch it
      const [below, above] = reach([line], x[0], x[1]);
      if (below < low && low - below < 0.5 * (high - low)) low = below;
      if (above > high && above - high < 0.1 * (high - low)) high = above;
    }
    if (low > high) [low, high] = [0, 1];
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    const stretch = high > low ? (high / low) ** 0.04 : 2;
    const y = logY ? [low / stretch, high * stretch] : kind.fromZero && low >= 0 ? [0, high * 1.06 || 1] : [low - pad, high + pad];
    return { name, kind, logY, found, table, x, y, covered, time: clock(Math.max(last, x[1])) };
  }

  /** What makes a chart another one, so that it must be made anew instead of being given new points. */
  const signature = (now) => JSON.stringify([view.axis, view.logX, now.logY, now.time.name, isDark(), now.found.map((line) => [line.label, line.stroke, !!line.dots])]);

  function draw(figure) {
    const place = figure.querySelector(".plot"), now = prepared(figure), before = drawn.find((one) => one.figure === figure);
    const notice = figure.querySelector(".lid");
    if (notice) notice.hidden = !(now && now.covered);
    if (before && now && before.signature === signature(now)) {
      before.now = now;
      before.plot.batch(() => { before.plot.setData(now.table, false); before.plot.setScale("x", { min: now.x[0], max: now.x[1] }); before.plot.setScale("y", { min: now.y[0], max: now.y[1] }); });
      label(place, now);
      return before;
    }
    if (before) before.plot.destroy();
    place.replaceChildren();
    place.classList.remove("drawn");
    if (!now) { place.textContent = runs.length && !shown().length ? "no run is chosen" : "nothing to draw on this axis"; return null; }
    const made = { figure, place, now, signature: signature(now) };
    const labelled = { label: now.time.name, labelSize: 20, labelGap: 0, labelFont: `12px ${getComputedStyle(document.body).fontFamily}` };
    // Where the cursor is; with no cursor, at the end.
    const written = (format, last) => (_, v, at, index) => (index === null || index === undefined ? format(last()) : v === null || v === undefined ? "–" : format(v));
    const lastOf = (list) => list[list.length - 1];
    const options = {
      width: place.clientWidth || 300,
      height: now.kind.height,
      scales: { x: { time: false, distr: view.logX ? 3 : 1, range: () => made.now.x }, y: { distr: now.logY ? 3 : 1, range: () => made.now.y } },
      axes: [
        axis(view.logX, (v) => made.now.time.format(v), { ...(now.name === "loss" ? labelled : {}), size: 32, incrs: ticks(now.time.unit) }),
        axis(now.logY, now.name === "learning_rate" ? power : now.name === "hellaswag" ? (v) => `${+(v * 100).toFixed(1)}%` : (v) => short(v), { size: 54 }),
      ],
      series: [
        { label: now.time.name, value: written((v) => made.now.time.format(v), () => lastOf(made.now.table[0])) },
        ...now.found.map((line, k) => ({
          label: line.label, stroke: line.stroke, width: line.width, dash: line.dash, spanGaps: true,
          points: line.dots ? { show: line.points[0].length <= 150, size: line.reference ? 4 : 5, fill: line.stroke, stroke: line.stroke, width: 0 } : line.reference ? { show: false } : { size: 5 },
          value: written(now.kind.format, () => lastOf(made.now.found[k].points[1])),
        })),
      ],
      cursor: {
        sync: { key: "daybreak", scales: ["x", null] },
        drag: { x: true, y: false, dist: 5, setScale: false },
        bind: { dblclick: () => () => { zoom(null); return null; } },
        hover: { skip: [null, undefined] }, points: { size: 7 },
      },
      hooks: {
        draw: [marks],
        setCursor: [(u) => tell(u, place)],
        setSelect: [(u) => selected(u)],
      },
    };
    made.plot = new uPlot(options, now.table, place);
    place.classList.add("drawn");
    label(place, now);
    return made;
  }

  let selecting = false;  // all charts tell of one drag, as their cursors are tied; the first is the one that was drawn in
  function selected(u) {
    const { left, width } = u.select;
    if (width <= 4 || selecting) return;
    selecting = true;
    const window = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
    setTimeout(() => {
      selecting = false;
      for (const { plot } of drawn) plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      zoom(window);
    });
  }

  /** What who cannot see the chart is told of it. */
  function label(place, now) {
    place.tabIndex = 0;
    place.setAttribute("role", "img");
    const last = now.found.filter((line) => !line.pale).map((line) => `${line.label} ${now.kind.format(line.points[1][line.points[1].length - 1])}`);
    place.setAttribute("aria-label", `${now.name.replaceAll("_", " ")} against ${now.time.name}. At the end: ${last.join(", ")}. Keys: + and - zoom, arrows move, 0 shows all.`);
  }

  /** Steps between marks that are round in the unit that is shown. */
  function ticks(unit) {
    const steps = [];
    for (let e = unit === 1 ? 0 : -3; e < 26; e++) for (const f of [1, 2, 5]) steps.push(f * 10 ** e * unit);
    return steps;
  }

  function zoom(window) {
    view.window = window && window[1] > window[0] ? window : null;
    root.dataset.zoomed = view.window ? "part" : "all";
    drawAll();
    view.zoomed(view.window);
  }

  function keyed(event) {
    const at = drawn.find((one) => one.place === event.currentTarget);
    if (!at || event.ctrlKey || event.metaKey || event.altKey) return;
    const [low, high] = at.now.x, log = view.logX && low > 0, to = log ? Math.log : (v) => v, back = log ? Math.exp : (v) => v;
    const a = to(low), b = to(high), middle = (a + b) / 2, half = (b - a) / 2, moved = { ArrowLeft: -half / 2, ArrowRight: half / 2 }[event.key];
    if (event.key === "+" || event.key === "=") zoom([back(middle - half / 2), back(middle + half / 2)]);
    else if (event.key === "-") zoom(view.window && [back(middle - half * 2), back(middle + half * 2)]);
    else if (moved && view.window) zoom([back(a + moved), back(b + moved)]);
    else if (event.key === "0" || event.key === "Escape") zoom(null);
    else return;
    event.preventDefault();
  }

  function drawAll() {
    drawn = [...document.querySelectorAll("figure[data-chart]")].filter((figure) => !figure.hidden).map(draw).filter(Boolean);
  }

  const byId = (name) => document.getElementById(name);
  const listen = (element, kind, act) => element && element.addEventListener(kind, act);

  /** Takes over the controls of the page. */
  function tend() {
    listen(byId("theme"), "click", () => { root.dataset.theme = isDark() ? "light" : "dark"; remember(root.dataset.theme); drawAll(); });
    prefersDark.addEventListener("change", drawAll);
    for (const radio of document.querySelectorAll("input[name=axis]")) {
      if (radio.checked) view.axis = radio.value;
      listen(radio, "change", () => { view.axis = radio.value; zoom(null); });
    }
    const logX = byId("log-x"), slider = byId("smoothing");
    if (logX) view.logX = logX.checked;
    listen(logX, "change", () => { view.logX = logX.checked; drawAll(); });
    const smooth = () => { view.smoothing = +slider.value; slider.setAttribute("aria-valuetext", view.smoothing ? `half-life 1/${2 ** (12 - view.smoothing)} of the run` : "none"); };
    if (slider) smooth();
    listen(slider, "input", () => { smooth(); drawAll(); });
    listen(byId("reset"), "click", () => zoom(null));
    for (const box of document.querySelectorAll(".log-y")) {
      const note = () => (box.checked ? view.logY.add(box.dataset.for) : view.logY.delete(box.dataset.for));
      note();
      listen(box, "change", () => { note(); drawAll(); });
    }
    for (const place of document.querySelectorAll("figure[data-chart] .plot")) listen(place, "keydown", keyed);
    let waiting = 0;
    addEventListener("resize", () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => {
        for (const { plot, place } of drawn) if (plot.width !== place.clientWidth) plot.setSize({ width: place.clientWidth, height: plot.height });
      });
    });
  }

  const set = (newRuns, newReferences) => { runs = newRuns; references = newReferences; drawAll(); };
  const toggle = (id, on) => { if (on) view.hidden.delete(id); else view.hidden.add(id); drawAll(); };
  const frame = (place) => (drawn.find((one) => one.place === place) || { now: { y: [] } }).now.y;
  return { view, tend, set, toggle, frame, draw: drawAll, zoom, short, power, listen };
})();
