"use strict";
const $ = (selector, from = document) => from.querySelector(selector);
const form = $("#form"), prompt = $("#prompt"), card = $("#card"), said = $("#said");
const MOST_ALTERNATIVES = 8;
const KNOBS = [
  // letter in the link, name, label, least, most, step, default
  ["t", "temperature", "Temperature", 0, 2, 0.05, 0.8],
  ["k", "top_k", "Top-k, 0 for all", 0, 200, 1, 50],
  ["p", "top_p", "Top-p", 0.05, 1, 0.01, 1],
  ["m", "min_p", "Min-p", 0, 0.5, 0.01, 0],
  ["n", "max_tokens", "Tokens to write", 1, 1000, 1, 120],
];
let models = [];
let key = sessionStorage.getItem("daybreak-key") || "";

function make(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) name in made ? (made[name] = value) : made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function say(text, bad = false) {
  said.textContent = text;
  said.classList.toggle("bad", bad);
}

// --- the server -----------------------------------------------------------------------------------------------------------

async function ask(path, body, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body) headers["content-type"] = "application/json";
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  if (response.status === 401) $("#key-row").hidden = false;
  throw new Error((told && told.error && told.error.message) || `the server answered ${response.status}`);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (waiting + value).split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new Error(told.error.message);
      yield told;
    }
  }
}

// --- a column: a model, its settings, what it wrote -----------------------------------------------------------------------

class Column {
  constructor(number) {
    this.number = number;
    this.root = $("#column").content.cloneNode(true).firstElementChild;
    this.text = $(".text", this.root);
    this.model = $(".model", this.root);
    this.tokens = []; // {id, name, text, logprob, alternatives, mine, span}
    this.given = null; // the prompt's ids
    this.knobs = {};
    const grid = $(".grid", this.root);
    for (const [, name, label, min, max, step, value] of KNOBS) grid.append(this.knob(name, label, { min, max, step, value }));
    const seed = make("input", { type: "number", id: `seed-${number}`, min: "0", step: "1", placeholder: "random" });
    this.knobs.seed = seed;
    seed.addEventListener("input", () => this.told());
    grid.append(make("div", { className: "knob" }, make("label", { htmlFor: seed.id, textContent: "Seed" }), seed));
    this.model.addEventListener("change", () => this.told());
    $(".more", this.root).addEventListener("click", () => run([this], (column) => column.goOn()));
    $(".copy", this.root).addEventListener("click", () => copy(this.givenText + this.tokens.map((token) => token.text).join(""), "The text is copied."));
    this.text.addEventListener("keydown", (event) => this.keyed(event));
    this.text.addEventListener("focusout", (event) => { if (!card.contains(event.relatedTarget)) hideCard(); });
  }

  knob(name, label, { min, max, step, value }) {
    const id = `${name}-${this.number}`;
    const number = make("input", { type: "number", id, min, max, step, value, required: true });
    const range = make("input", { type: "range", min, max, step, value, tabIndex: -1, ariaLabel: label });
    range.addEventListener("input", () => { number.value = range.value; this.told(); });
    number.addEventListener("input", () => { range.value = number.value; this.told(); });
    this.knobs[name] = number;
    number.range = range;
    return make("div", { className: "knob" }, make("label", { htmlFor: id, textContent: label }), number, range);
  }

  set(name, value) {
    this.knobs[name].value = value;
    if (this.knobs[name].range) this.knobs[name].range.value = value;
  }

  get(name) {
    const shape = KNOBS.find((knob) => knob[1] === name);
    const value = parseFloat(this.knobs[name].value);
    return Number.isFinite(value) ? Math.min(Math.max(value, shape[3]), shape[4]) : shape[6];
  }

  offer() {
    const before = this.model.value || this.wanted;
    this.model.replaceChildren(...models.map((model) => make("option", { value: model.id, textContent: model.id })));
    this.model.value = models.some((model) => model.id === before) ? before : models[Math.min(this.number, models.length - 1)].id;
    this.told();
  }

  get shape() { return models.find((model) => model.id === this.model.value); }

  told() {
    if (this.shape) $(".about", this.root).textContent = `${count(this.shape.parameters)} parameters · context ${this.shape.max_model_len} · ${this.shape.dtype}`;
    const parts = [`temperature ${this.get("temperature")}`, this.get("top_k") && `top-k ${this.get("top_k")}`, this.get("top_p") < 1 && `top-p ${this.get("top_p")}`];
    parts.push(this.get("min_p") && `min-p ${this.get("min_p")}`, this.knobs.seed.value && `seed ${this.knobs.seed.value}`, `${this.get("max_tokens")} tokens`);
    $(".brief", this.root).textContent = parts.filter(Boolean).join(" · ");
    remember();
  }

  async begin(signal) {
    this.seed = this.knobs.seed.value === "" ? Math.floor(Math.random() * 2 ** 31) : Math.abs(parseInt(this.knobs.seed.value)) % Number.MAX_SAFE_INTEGER;
    this.givenText = prompt.value;
    this.tokens = [];
    this.given = [];
    this.text.replaceChildren(make("span", { className: "given", textContent: this.givenText }));
    this.text.scrollTop = this.text.scrollHeight;
    if (this.givenText) this.given = (await (await ask("/tokenize", { model: this.model.value, prompt: this.givenText }, signal)).json()).tokens;
    await this.write(this.get("max_tokens"), signal);
  }

  async goOn(signal) {
    if (this.given === null) return this.begin(signal);
    return this.write(this.get("max_tokens"), signal);
  }

  async branch(at, chosen, signal) {
    for (const token of this.tokens.splice(at)) token.span.remove();
    this.show({ ...chosen, text: plain(chosen.token), name: chosen.token, mine: true, alternatives: chosen.among });
    await this.write(Math.max(1, this.get("max_tokens") - this.tokens.length), signal);
  }

  async write(wanted, signal) {
    const context = this.shape.max_model_len;
    this.root.classList.add("busy");
    const begun = performance.now();
    let first = null, written = 0, reason = null;
    try {
      while (written < wanted && reason !== "stop") {
        let ids = [...this.given, ...this.tokens.map((token) => token.id)];
        const room = Math.min(wanted - written, Math.floor(context / 2));
        ids = ids.slice(-(context - room)); // what is too long for the context is forgotten at its beginning
        const top_k = Math.round(this.get("top_k"));
        const response = await ask("/v1/completions", {
          model: this.model.value, prompt: ids.length ? ids : "", max_tokens: room, temperature: this.get("temperature"), top_p: this.get("top_p"),
          min_p: this.get("min_p"), top_k, seed: (this.seed + this.tokens.length) % Number.MAX_SAFE_INTEGER, logprobs: MOST_ALTERNATIVES, return_token_ids: true, stream: true,
        }, signal);
        let came = 0;
        for await (const event of events(response)) {
          for (const choice of event.choices) {
            if (choice.token_ids && choice.token_ids.length) {
              first ??= performance.now() - begun;
              written += 1;
              came += 1;
              const told = choice.logprobs;
              this.show({ id: choice.token_ids[0], name: told.tokens[0], text: choice.text, logprob: told.token_logprobs[0], alternatives: told.alternatives[0] });
            } else if (choice.text && this.tokens.length) {
              this.add(this.tokens.at(-1), choice.text);
            }
            reason = choice.finish_reason || reason;
          }
          this.sum(written, first, begun);
        }
        if (!came) break;
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      reason = "stopped";
    } finally {
      this.root.classList.remove("busy");
      this.sum(written, first, begun, reason);
      $(".more", this.root).disabled = $(".copy", this.root).disabled = false;
    }
  }

  show(token) {
    const span = make("span", { className: "token" });
    token.span = span;
    this.tokens.push(token);
    span.style.setProperty("--heat-here", `${heat(token.logprob)}%`);
    span.classList.toggle("mine", Boolean(token.mine));
    span.classList.toggle("end", token.name === "<|endoftext|>" && !token.text);
    span.classList.toggle("part", !token.text && token.name.startsWith("bytes:"));
    const text = token.text;
    token.text = "";
    if (text) this.add(token, text);
    const follows = this.text.scrollTop + this.text.clientHeight > this.text.scrollHeight - 60;
    this.text.append(span);
    if (follows) this.text.scrollTop = this.text.scrollHeight;
  }

  add(token, text) {
    token.text += text;
    for (const part of text.split(/(\n)/)) {
      if (part === "\n") token.span.append(make("span", { className: "break" }));
      token.span.append(part);
    }
  }

  sum(written, first, begun, reason) {
    const known = this.tokens.filter((token) => !token.mine && token.logprob !== null);
    const parts = [`${written} tokens`];
    const seconds = (performance.now() - begun - (first || 0)) / 1000;
    if (written > 1 && seconds > 0) parts.push(`${((written - 1) / seconds).toFixed(0)} tokens/s`);
    if (first !== null) parts.push(`first after ${first.toFixed(0)} ms`);
    if (known.length > 1) parts.push(`perplexity ${Math.exp(-known.reduce((sum, token) => sum + token.logprob, 0) / known.length).toPrecision(3)}`);
    if (reason) parts.push(`seed ${this.seed}`, { stop: "the text ended", length: "its length is reached", stopped: "stopped" }[reason] || reason);
    $(".stats", this.root).textContent = parts.join(" · ");
  }

  keyed(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const turn = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const shown = shownFor && shownFor.column === this && !card.hidden ? shownFor.at : -1;
    if (step && this.tokens.length) {
      event.preventDefault();
      const at = shown < 0 ? (step < 0 ? this.tokens.length - 1 : 0) : Math.min(Math.max(shown + step, 0), this.tokens.length - 1);
      this.tokens[at].span.scrollIntoView({ block: "nearest" });
      showCard(this, at);
    } else if (turn && shown >= 0) {
      event.preventDefault();
      near((nearest + turn + choices().length) % choices().length);
    } else if (event.key === "Enter" && shown >= 0 && choices()[nearest] && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      choices()[nearest].click();
    }
  }
}

function heat(logprob) { // of a token's background, in percent: none for a certain one, all for less than one in a thousand
  return logprob === null || logprob === undefined ? 0 : Math.round(62 * Math.min(1, -logprob / 7));
}

function count(number) {
  return number >= 1e9 ? `${(number / 1e9).toFixed(1)}B` : number >= 1e6 ? `${(number / 1e6).toFixed(number < 1e7 ? 1 : 0)}M` : number.toLocaleString("en");
}

function plain(name) { // a token's name as text
  return name.startsWith("bytes:") || name === "<|endoftext|>" ? "" : name;
}

// --- the card of a token's alternatives -----------------------------------------------------------------------------------

let shownFor = null, nearest = 0, hiding = 0;
const choices = () => [...card.querySelectorAll(".choice")];

function named(name) {
  const code = make("code");
  for (const character of name) {
    const sign = { " ": "␣", "\n": "↵", "\t": "⇥" }[character];
    code.append(sign ? make("i", { textContent: sign }) : character);
  }
  return code;
}

function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return value >= 10 ? `${value.toFixed(0)} %` : value >= 0.01 ? `${value.toPrecision(2)} %` : "< 0.01 %";
}

function near(at) {
  nearest = at;
  choices().forEach((choice, index) => choice.classList.toggle("near", index === at));
}

function showCard(column, at) {
  clearTimeout(hiding);
  const token = column.tokens[at];
  if (!token) return;
  if (shownFor) shownFor.column.tokens[shownFor.at]?.span.classList.remove("at");
  shownFor = { column, at };
  token.span.classList.add("at");
  const title = make("h2", {}, named(token.name), make("span", { textContent: token.logprob === null ? "" : percent(token.logprob) }));
  const listed = token.alternatives.map((other) => {
    const choice = make("button", { type: "button", className: "choice", tabIndex: -1, title: "Go on with this one" }, named(other.token), make("span", { textContent: percent(other.logprob) }));
    choice.style.setProperty("--share", `${100 * Math.exp(other.logprob - token.alternatives[0].logprob)}%`);
    choice.classList.toggle("on", other.id === token.id);
    choice.addEventListener("click", () => {
      hideCard();
      run([column], (one, signal) => one.branch(at, { ...other, among: token.alternatives }, signal));
    });
    return choice;
  });
  const rank = token.alternatives.findIndex((other) => other.id === token.id);
  const told = token.mine ? "You chose this one." : rank < 0 ? `Not among the ${listed.length} likeliest.` : `Number ${rank + 1} by likelihood.`;
  card.replaceChildren(title, ...listed, make("p", { className: "note", textContent: told }));
  card.hidden = false;
  near(Math.max(rank, 0));
  if (matchMedia("(max-width: 760px)").matches) { // the card lies at the screen's lower end
    scrollBy(0, Math.max(0, token.span.getBoundingClientRect().bottom + 16 - card.getBoundingClientRect().top));
    return;
  }
  const box = token.span.getClientRects()[0] || token.span.getBoundingClientRect();
  const below = box.bottom + 8 + card.offsetHeight < innerHeight || box.top < card.offsetHeight + 8;
  card.style.left = `${scrollX + Math.min(Math.max(8, box.left - 12), innerWidth - card.offsetWidth - 8)}px`;
  card.style.top = `${scrollY + (below ? box.bottom + 6 : box.top - card.offsetHeight - 6)}px`;
}

function hideCard() {
  clearTimeout(hiding);
  if (shownFor) shownFor.column.tokens[shownFor.at]?.span.classList.remove("at");
  shownFor = null;
  card.hidden = true;
}

function tokenUnder(event) {
  const span = event.target.closest && event.target.closest(".token");
  if (!span) return null;
  const column = columns.find((one) => one.text.contains(span));
  return column ? { column, at: column.tokens.findIndex((token) => token.span === span) } : null;
}

addEventListener("pointerover", (event) => {
  const found = tokenUnder(event);
  if (found && event.pointerType !== "touch") showCard(found.column, found.at);
  else if (card.contains(event.target)) clearTimeout(hiding);
  else if (!card.hidden && event.pointerType !== "touch" && document.activeElement !== shownFor?.column.text) {
    clearTimeout(hiding);
    hiding = setTimeout(hideCard, 220);
  }
});
addEventListener("click", (event) => {
  const found = tokenUnder(event);
  if (found) showCard(found.column, found.at);
  else if (!card.contains(event.target)) hideCard();
});

// --- all together ---------------------------------------------------------------------------------------------------------

const columns = [new Column(0), new Column(1)];
const used = () => ($("#compare").checked ? columns : columns.slice(0, 1));
let running = null;

async function run(which, work) {
  stop();
  const mine = (running = new AbortController());
  hideCard();
  say("");
  $("#stop").disabled = false;
  const ended = await Promise.allSettled(which.map((column) => work(column, mine.signal)));
  const failed = ended.find((one) => one.status === "rejected" && one.reason.name !== "AbortError");
  if (failed) say(failed.reason instanceof TypeError ? "The server cannot be reached." : failed.reason.message, true);
  if (running === mine) {
    running = null;
    $("#stop").disabled = true;
  }
}

function stop() {
  if (running) running.abort();
}

function write() {
  if (!models.length) return begin();
  remember();
  return run(used(), (column, signal) => column.begin(signal));
}

function arrange() {
  document.body.classList.toggle("two", $("#compare").checked);
  $("#columns").replaceChildren(...used().map((column) => column.root));
  remember();
}

async function copy(text, told) {
  try {
    await navigator.clipboard.writeText(text);
    say(told);
  } catch {
    say("The browser does not let a page copy here.", true);
  }
}

// --- the link -------------------------------------------------------------------------------------------------------------

let remembering = false;

function link(runs) {
  const told = new URLSearchParams();
  told.set("prompt", prompt.value);
  for (const column of used()) {
    const parts = KNOBS.map(([letter, name]) => `${letter}${column.get(name)}`);
    const seed = runs && column.seed !== undefined ? column.seed : column.knobs.seed.value;
    told.append("model", [column.model.value, ...parts, `s${seed}`].join("~"));
  }
  if (runs) told.set("run", "1");
  return `${location.origin}${location.pathname}#${told}`;
}

function remember() {
  if (remembering) history.replaceState(null, "", link(false));
}

function recall() {
  const told = new URLSearchParams(location.hash.slice(1));
  if (told.has("prompt")) prompt.value = told.get("prompt");
  const settings = told.getAll("model").slice(0, 2);
  settings.forEach((setting, number) => {
    const parts = setting.split("~");
    const values = parts.splice(-(KNOBS.length + 1));
    columns[number].wanted = parts.join("~");
    for (const value of values) {
      const shape = KNOBS.find((knob) => knob[0] === value[0]);
      if (shape && Number.isFinite(parseFloat(value.slice(1)))) columns[number].set(shape[1], parseFloat(value.slice(1)));
      if (value[0] === "s") columns[number].set("seed", value.slice(1).replace(/\D/g, ""));
    }
  });
  $("#compare").checked = settings.length === 2;
  return told.has("run");
}

async function begin() {
  try {
    models = (await (await ask("/v1/models")).json()).data;
    $("#key-row").hidden = !key;
    say("");
  } catch (error) {
    say(error instanceof TypeError ? "The server cannot be reached." : error.message, true);
    return;
  }
  columns.forEach((column) => column.offer());
  remembering = true;
  remember();
}

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

form.addEventListener("submit", (event) => { event.preventDefault(); write(); });
prompt.addEventListener("input", () => { grow(); remember(); });
$("#stop").addEventListener("click", stop);
$("#compare").addEventListener("change", arrange);
$("#tint").addEventListener("change", () => document.body.classList.toggle("tinted", $("#tint").checked));
$("#share").addEventListener("click", () => copy(link(true), "The link is copied: it brings this prompt, these settings and seeds, and writes."));
$("#key").addEventListener("change", () => { key = $("#key").value.trim(); sessionStorage.setItem("daybreak-key", key); begin(); });
$("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("daybreak-theme", root.dataset.theme);
});
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); write(); }
  if (event.key === "Escape") { card.hidden ? stop() : hideCard(); }
});
addEventListener("error", () => { document.documentElement.dataset.errors = "yes"; });
addEventListener("unhandledrejection", () => { document.documentElement.dataset.errors = "yes"; });

if (localStorage.getItem("daybreak-theme")) document.documentElement.dataset.theme = localStorage.getItem("daybreak-theme");
document.body.classList.add("tinted");
const runs = recall();
$("#key").value = key;
arrange();
grow();
begin().then(() => { if (runs && models.length) write(); else prompt.focus(); });
