// The live page: asks the server for what changed, and only while somebody looks.
// `live` brings the figures of all runs; their curves are fetched when their version grew, not more often than drawing them takes no time.
addEventListener("DOMContentLoaded", () => {
  "use strict";
  const charts = daybreakCharts, byId = (name) => document.getElementById(name), root = document.documentElement;
  const runs = new Map();  // id -> { state, card, drawn, fetched, story, told }
  let whose = "", leafing = false;

  const make = (tag, kind = "", text = "") => { const one = document.createElement(tag); if (kind) one.className = kind; one.textContent = text; return one; };
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const figure = (value, digits) => (value === null ? "–" : value.toFixed(digits));
  const whole = (value) => (value === null ? "–" : Math.round(value).toLocaleString("en"));

  function card(id, place) {
    const row = make("div", `card run-${place % 8}`), parts = { row };
    const box = make("input");
    box.type = "checkbox"; box.checked = true; box.id = `run-${id}`;
    charts.listen(box, "change", () => { row.classList.toggle("off", !box.checked); charts.toggle(id, box.checked); });
    const name = make("label", "name");
    name.htmlFor = box.id;
    parts.name = make("span"); parts.badge = make("span", "badge"); parts.about = make("div", "about");
    name.append(parts.name, parts.badge, parts.about);
    const way = make("div", "way"), track = make("div", "track");
    parts.far = make("div"); parts.fill = make("span", "fill"); parts.left = make("div");
    track.setAttribute("role", "progressbar"); track.setAttribute("aria-valuemin", "0"); track.setAttribute("aria-valuemax", "100"); track.setAttribute("aria-label", "progress");
    parts.track = track;
    track.append(parts.fill); way.append(parts.far, track, parts.left);
    const four = make("div", "figures4");
    for (const [key, label] of [["loss", "loss"], ["val_loss", "validation"], ["bits_per_byte", "bits per byte"], ["tokens_per_second", "tokens/s"]]) {
      const list = make("dl"), value = make("dd", "", "–");
      list.append(make("dt", "", label), value); four.append(list);
      parts[key] = value;
    }
    const said = make("p", "said");
    parts.standing = make("span"); parts.trouble = make("span", "trouble");
    said.append(parts.standing, " ", parts.trouble);
    row.append(box, name, way, four, said);
    document.querySelector(".cards").append(row);
    return parts;
  }

  function fill(parts, state) {
    put(parts.name, state.name);
    put(parts.badge, state.reason ? `${state.state}: ${state.reason}` : state.state);
    parts.badge.className = `badge ${state.state.replace(" ", "-")}`;
    put(parts.about, [state.parameters ? `${charts.short(state.parameters, 3)} parameters` : "", state.text, state.device].filter(Boolean).join(" · "));
    const share = state.train_tokens ? Math.min(1, (state.tokens ?? 0) / state.train_tokens) : 0;
    const of = state.train_tokens ? ` of ${charts.short(state.train_tokens, 3)}` : "";
    put(parts.far, state.tokens === null ? "" : `${charts.short(state.tokens, 3)}${of} tokens, step ${whole(state.step)}`);
    parts.fill.style.width = `${share * 100}%`;
    parts.track.setAttribute("aria-valuenow", Math.round(share * 100));
    put(parts.left, state.share < 1 ? `reading what was written: ${Math.floor(state.share * 100)} %` : state.left ? `${Math.floor(share * 100)} %, ${state.left} left` : "");
    put(parts.loss, figure(state.loss, 3));
    put(parts.val_loss, figure(state.val_loss, 4));
    put(parts.bits_per_byte, figure(state.bits_per_byte, 3));
    put(parts.tokens_per_second, state.tokens_per_second === null ? "–" : charts.short(state.tokens_per_second, 3));
    put(parts.standing, state.standing ? `Validation loss ${state.standing}` : "");
    put(parts.trouble, state.troubles.join(" "));
  }

  function tell(states) {
    for (const state of states) {
      if (!runs.has(state.id)) {
        runs.set(state.id, { card: card(state.id, runs.size), drawn: null, fetched: "", story: -1, told: null });
        byId("whose").append(new Option(state.name, state.id));
        whose ||= state.id;
      }
      const run = runs.get(state.id);
      run.state = state;
      fill(run.card, state);
    }
    const comparable = new Set(states.map((state) => state.text)).size === 1 && states.length > 1;
    const best = Math.min(...states.map((state) => state.val_loss ?? Infinity));
    for (const run of runs.values()) run.card.val_loss.parentElement.classList.toggle("best", comparable && run.state.val_loss === best);
    byId("none").hidden = runs.size > 0;
    for (const name of ["curves", "samples", "events"]) byId(name).hidden = !runs.size;
    const going = states.filter((state) => state.state === "under way").length;
    put(byId("title"), runs.size === 1 ? states[0].name : `${runs.size} runs${going ? `, ${going} under way` : ""}`);
    document.title = states.length === 1 && states[0].loss !== null ? `${figure(states[0].val_loss ?? states[0].loss, 3)} · ${states[0].name}` : `${byId("title").textContent} · daybreak watch`;
    root.dataset.steps = Math.max(...states.map((state) => state.step), 0);
  }

  /** The part that is looked at closely, as the server is asked for it: with as much again at each side, to move in. */
  function part(run) {
    const window = charts.view.window;
    if (!window) return "";
    const flops = charts.view.axis === "flops", factor = flops ? run.state && run.drawn ? run.drawn.flops_per_token : 0 : 1;
    if (!factor) return "";
    const room = (window[1] - window[0]) / 2, axis = flops ? "tokens" : charts.view.axis;
    return `&axis=${axis}&from=${(window[0] - room) / factor}&to=${(window[1] + room) / factor}`;
  }

  let pause = 1000, fetching = false, again = 0;
  async function refresh() {
    clearTimeout(again);
    if (!fetching && !document.hidden) {
      fetching = true;
      const began = performance.now();
      try {
        const points = Math.max(400, Math.round(4000 / Math.max(2, runs.size)));
        const late = [...runs].filter(([, run]) => run.fetched !== `${run.state.version}${part(run)}`);
        await Promise.all(late.map(async ([id, run]) => {
          const asked = `${run.state.version}${part(run)}`, answer = await fetch(`curves?run=${id}&points=${points}${part(run)}`);
          if (answer.ok) { run.drawn = { ...(await answer.json()), id }; run.fetched = asked; }
        }));
        if (late.length) show();
        if (whose && runs.get(whose).story !== runs.get(whose).state.story) await leaf();
        await happened();
      } catch { /* the connection tells of itself */ }
      fetching = false;
      pause = Math.min(5000, Math.max(1000, 8 * (performance.now() - began)));
    }
    again = setTimeout(refresh, pause);
  }

  function show() {
    const known = [...runs.values()].map((run) => run.drawn).filter(Boolean);
    for (const chart of document.querySelectorAll("figure[data-chart]")) {
      const name = chart.dataset.chart;
      chart.hidden = name !== "loss" && !known.some((run) => run.curves[name]);
    }
    const each = known.map((run) => run.references);
    charts.set(known, each.length ? each[0].filter((one) => each.every((others) => others.some((other) => other.name === one.name && other.text === one.text))) : []);
    root.dataset.known = known.length;
    root.dataset.drawn = known.reduce((sum, run) => sum + (run.curves.loss ? run.curves.loss.values.length : 0), 0);
  }

  async function story(id) {
    const run = runs.get(id);
    if (run.story !== run.state.story) {
      const version = run.state.story, answer = await fetch(`story?run=${id}`);
      if (answer.ok) { run.told = await answer.json(); run.story = version; }
    }
    return run.told;
  }

  /** Shows the newest sample, or the one that was leafed to. */
  async function leaf() {
    const told = await story(whose), slider = byId("leaf"), pages = new Map();
    for (const sample of told ? told.samples : []) pages.set(sample.step, [...(pages.get(sample.step) ?? []), sample]);
    slider.max = Math.max(0, pages.size - 1);
    if (!leafing) slider.value = slider.max;
    slider.disabled = pages.size < 2;
    const page = [...pages.values()][+slider.value] ?? [];
    byId("no-samples").hidden = pages.size > 0;
    put(byId("page"), page.length ? `step ${whole(page[0].step)}, ${page[0].tokens} tokens` : "");
    byId("sample").replaceChildren(...page.map((sample) => {
      const quote = make("blockquote");
      quote.dir = "auto";
      if (sample.prompt) quote.append(make("mark", "", sample.prompt));
      quote.append(sample.text);
      return quote;
    }));
  }

  let rows = "";
  async function happened() {
    const all = await Promise.all([...runs.keys()].map(story)), several = runs.size > 1, now = [...runs.values()].map((run) => run.story).join();
    if (now === rows) return;
    rows = now;
    const body = byId("happened");
    body.replaceChildren(...[...runs.values()].flatMap((run, i) => (all[i] ? all[i].events : []).map((event) => ({ event, i, name: run.state.name })))
      .sort((a, b) => (a.event.when < b.event.when ? 1 : -1)).slice(0, 400).map(({ event, i, name }) => {
        const row = make("tr"), head = make("th");
        head.scope = "row";
        if (several) head.append(make("span", `run-name run-${i % 8}`, `${name} `));
        head.append(make("span", `event ${event.event}`, event.event));
        row.append(head, ...[whole(event.step), event.tokens, event.after, event.when, event.said].map((text) => make("td", "", text)));
        return row;
      }));
  }

  charts.tend();
  charts.view.zoomed = () => { pause = 0; clearTimeout(again); again = setTimeout(refresh, 60); };
  charts.listen(byId("whose"), "change", () => { whose = byId("whose").value; leafing = false; leaf(); });
  charts.listen(byId("leaf"), "input", () => { leafing = byId("leaf").value !== byId("leaf").max; leaf(); });
  document.addEventListener("visibilitychange", refresh);
  const live = new EventSource("live"), link = byId("link");
  live.onmessage = (message) => {
    link.className = "link live"; put(link, "live");
    tell(JSON.parse(message.data).runs);
    if (!root.dataset.drawn) refresh();
  };
  live.onerror = () => { link.className = "link lost"; put(link, "not reached; trying again"); };
  refresh();
});
