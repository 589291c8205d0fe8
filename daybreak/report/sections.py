"""The sections of the page, one function each: from the summaries of the runs to markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from daybreak.report import words
from daybreak.report.curves import CLOCK, number, spread
from daybreak.report.drawing import loss_picture
from daybreak.report.markup import escape, leaves, paragraph, section, side_by_side, table
from daybreak.report.record import Summary, amount, headline, sources

MAX_SAMPLES = 150
MAX_SAMPLE_TEXT = 6000
MAX_EVENTS = 300
SMALL = (
    ("bits_per_byte", "Bits per byte"),
    ("hellaswag", "HellaSwag"),
    ("learning_rate", "Learning rate"),
    ("grad_norm", "Gradient norm"),
    ("tokens_per_second", "Tokens per second"),
)
"""The charts below the loss."""
SMOOTHING = '<label class="switch">smoothing <input type="range" id="smoothing" min="0" max="9" value="4"></label>'
TOLD_ELSEWHERE = ("step", "eval", "sample", "tasks", "probe")

Runs = Sequence[Summary]


def header(runs: Runs, title: str) -> str:
    """The name of the page or run, and what happened, in one sentence for each run."""
    heading = runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side" if runs else "No runs"
    lines = []
    for i, run in enumerate(runs):
        state = f"{run.state}: {run.reason}" if run.reason else run.state
        name = f'<b class="run-name run-{i % 8}">{escape(run.name)}</b> ' if len(runs) > 1 else ""
        badge = f'<span class="badge {run.state.replace(" ", "-")}">{escape(state)}</span>'
        if len(runs) > 3:  # sentences for each would fill the first screen
            lines.append(f"<span>{name}{badge}</span>")
        else:
            lines.append(f'<p class="lead">{name}{escape(headline(run))} {badge}</p>')
    if len(runs) > 3:
        lines = [f'<p class="tools">{"".join(lines)}</p>']
    toggle = '<button type="button" id="theme" class="needs-script" aria-label="Switch between light and dark">◐</button>'
    return (
        f'<header><div class="horizon"></div><div class="brow"><span>{escape(title)}</span>{toggle}</div>'
        f"<h1>{escape(heading)}</h1>{''.join(lines)}</header>"
    )


def figures(runs: Runs) -> str:
    """The results: large for one run, a table for several."""
    if len(runs) == 1:
        return section("result", "Result", _big_figures(runs[0]))
    head = ["run", "parameters", "tokens", "time", "validation loss", "perplexity", "bits per byte", "tokens per second"]
    best = min((run.val_loss for run in runs if run.val_loss is not None), default=None)
    rows = []
    for i, run in enumerate(runs):
        loss = escape(words.decimal(run.val_loss, 4))
        cells = [words.count(run.parameters), words.count(run.tokens), words.duration(run.seconds)]
        rest = [words.decimal(run.perplexity, 2), words.decimal(run.bits_per_byte, 4), words.count(run.tokens_per_second)]
        marked = f'<b class="best" title="the lowest">{loss}</b>' if run.val_loss is not None and run.val_loss == best else loss
        name = f'<span class="run-name run-{i % 8}">{escape(run.name)}</span>'
        rows.append([name, *map(escape, cells), marked, *map(escape, rest)])
    note = "Losses compare only between runs with the same validation text and tokenizer; bits per byte compare across tokenizers too."
    standing = "".join(paragraph(f"{run.name}: validation loss {run.standing}") for run in runs if run.standing)
    return section("result", "Result", table(head, rows, "numbers") + standing + paragraph(note, "note"))


def compression(runs: Runs) -> str:
    """How small the validation text becomes with the model's predictions, beside general compressors."""
    known = [run for run in runs if run.bits_per_byte is not None]
    if not known:
        return section("compression", "What it learned, in bits", paragraph("There is no figure in bits per byte yet.", "absent"))
    bars = [("plain text", 8.0, "plain")]
    bars += [(name, bits, "other") for name, bits in sorted(_compressors(runs).items(), key=lambda item: -item[1])]
    bars += [(run.name, run.bits_per_byte or 0.0, f"model run-{i % 8}") for i, run in enumerate(runs) if run.bits_per_byte is not None]
    widest = max(bits for _, bits, _ in bars)
    drawn = "".join(
        f'<div class="bar {kind}"><span class="bar-name">{escape(name)}</span><span class="track">'
        f'<span class="fill" style="width:{max(bits, 0) / widest * 100:.2f}%"></span></span><span class="bar-value">{bits:.3f}</span></div>'
        for name, bits, kind in bars
    )
    best = min(known, key=lambda run: run.bits_per_byte or 0.0)
    body = (
        paragraph(_compression_sentence(best, best.compressors or _agreed(runs), len(runs) > 1))
        + f'<div class="bars">{drawn}</div>'
        + paragraph(_measured_on(best), "note")
    )
    return section("compression", "What it learned, in bits", body)


def charts(runs: Runs) -> str:
    """The curves, with a still picture of the loss for those who run no scripts."""
    if not any(len(run.curves["loss"]) or len(run.curves["val_loss"]) for run in runs):
        return section("curves", "Curves", paragraph("There is nothing to draw yet: no step and no evaluation was logged.", "absent"))
    choices = [("tokens", "tokens"), ("steps", "steps"), ("seconds", "time")]
    if any(run.flops_per_token for run in runs):
        choices.append(("flops", "FLOPs"))
    radios = "".join(
        f'<label><input type="radio" name="axis" value="{value}"{" checked" if value == "tokens" else ""}><span>{name}</span></label>'
        for value, name in choices
    )
    tools = (
        f'<div class="tools needs-script"><fieldset class="choice"><legend>against</legend>{radios}</fieldset>'
        '<label class="switch"><input type="checkbox" id="log-x"><span>logarithmic</span></label>'
        f'{SMOOTHING}<button type="button" id="reset">show all</button><span class="hint">drag to zoom, double-click for all</span></div>'
    )
    if len(runs) > 1:
        toggles = "".join(
            f'<label class="switch"><input type="checkbox" class="toggle-run" value="{i}" checked>'
            f'<span class="run-name run-{i % 8}">{escape(run.name)}</span></label>'
            for i, run in enumerate(runs)
        )
        tools += f'<div class="tools needs-script" role="group" aria-label="Runs shown">{toggles}</div>'
    only = len(runs) == 1
    drawn = [
        _chart("loss", "Loss", _loss_note(runs[0]) if only else "Training loss, smoothed, and points of validation.", loss_picture(runs))
    ]
    drawn += [_chart(name, heading, "", "") for name, heading in SMALL if any(len(run.curves[name]) for run in runs)]
    missing = [heading.lower() for name, heading in SMALL if name != "hellaswag" and not any(len(run.curves[name]) for run in runs)]
    note = paragraph(f"Not logged yet: {words.listing(missing, 9)}.", "note") if missing else ""
    still = '<noscript><p class="note">The other curves need JavaScript.</p></noscript>'
    return section("curves", "Curves", f'{tools}<div class="charts">{"".join(drawn)}</div>{note}{still}')


def samples(runs: Runs) -> str:
    """What the model wrote as it learned, to be leafed through."""
    blocks = []
    for i, run in enumerate(runs):
        events = [event for event in run.events if event["event"] == "sample" and (event.get("text") or event.get("prompt"))]
        if not events:
            continue
        kept = spread(events, MAX_SAMPLES)
        pages: dict[Any, list[dict[str, Any]]] = {}
        for event in kept:
            pages.setdefault(event.get("step"), []).append(event)
        name = f'<h3 class="run-name run-{i % 8}">{escape(run.name)}</h3>' if len(runs) > 1 else ""
        slider = (
            f'<div class="tools needs-script"><input type="range" min="0" max="{len(pages) - 1}" value="{len(pages) - 1}" '
            f'aria-label="Step of the samples"><output></output></div>'
        )
        few = f"{len(kept):,} of {len(events):,} samples, evenly chosen." if len(kept) < len(events) else ""
        articles = "".join(_sample_page(page) for page in pages.values())
        slider = slider if len(pages) > 1 else ""
        blocks.append(f'{name}<div class="samples">{slider}{articles}</div>{paragraph(few, "note") if few else ""}')
    body = "".join(blocks) or paragraph("The model has not been asked to write anything yet.", "absent")
    return section("samples", "What it writes", body)


def events(runs: Runs) -> str:
    """What else happened: beginnings, checkpoints, skipped steps, resumes, stops."""
    rows = []
    hidden = 0
    for i, run in enumerate(runs):
        told = [pair for pair in zip(run.events, run.seconds_at, strict=True) if pair[0]["event"] not in TOLD_ELSEWHERE]
        rare = [pair for pair in told if pair[0]["event"] not in ("checkpoint", "skip")]
        often = [pair for pair in told if pair[0]["event"] in ("checkpoint", "skip")]
        kept = spread(rare, MAX_EVENTS // 2) + spread(often, MAX_EVENTS // 2)
        hidden += len(told) - len(kept)
        chosen = {id(event) for event, _ in kept}
        name = f'<span class="run-name run-{i % 8}">{escape(run.name)}</span> ' if len(runs) > 1 else ""
        rows += [_event_row(event, seconds, name) for event, seconds in told if id(event) in chosen]
    if not rows:
        return section("events", "Events", paragraph("Nothing happened yet.", "absent"))
    more = paragraph(f"{hidden:,} more checkpoints and skipped steps are not listed.", "note") if hidden else ""
    head = ["event", "step", "tokens", "training time", "UTC", ""]
    return section("events", "Events", f'<div class="tall">{table(head, rows, "events")}</div>{more}')


def data(runs: Runs) -> str:
    """What the models read."""
    known = [run for run in runs if run.record.data]
    if not known:
        return section("data", "Data", paragraph("Nothing is recorded about the data.", "absent"))
    sentences = "".join(paragraph(f"{run.name}: {_data_sentence(run)}" if len(runs) > 1 else _data_sentence(run)) for run in known)
    listed = side_by_side([run.name for run in known], [run.record.data or {} for run in known], "data")
    return section("data", "Data", f"{sentences}<details><summary>the manifest</summary>{listed}</details>")


def settings(runs: Runs) -> str:
    """Every setting of every run; of one run beside its recipe's, and first of all where they differ."""
    columns = [(run.name, run.record.settings) for run in runs]
    said = ""
    if len(runs) == 1 and (recipe := runs[0].record.recipe) is not None:
        columns.append(("the recipe", recipe))
        own, others = leaves(runs[0].record.settings), leaves(recipe)
        changed = [f"{key} = {own.get(key, words.ABSENT)}" for key in own if key in others and own[key] != others[key]]
        said = paragraph(f"Differs from its recipe in {words.listing(changed, 12)}." if changed else "All as its recipe has it.")
    listed = side_by_side([name for name, _ in columns], [values for _, values in columns], "settings")
    return section("settings", "Settings", said + listed if listed else paragraph("No settings are recorded.", "absent"))


def environment(runs: Runs) -> str:
    """On what machine and with what versions, as it was recorded."""
    listed = side_by_side([run.name for run in runs], [run.record.facts for run in runs], "environment")
    return section("environment", "Environment", listed or paragraph("Nothing is recorded about the machine.", "absent"))


def _big_figures(run: Summary) -> str:
    whole = [
        ("validation loss", words.decimal(run.val_loss, 3), "nats per token; lower is better"),
        ("perplexity", words.decimal(run.perplexity, 2), "as unsure as a choice among so many tokens"),
        ("bits per byte", words.decimal(run.bits_per_byte, 3), "whatever the tokenizer; plain text has 8"),
    ]
    small = [
        ("parameters", words.count(run.parameters)),
        ("tokens", words.count(run.tokens)),
        ("steps", words.count(run.steps)),
        ("training time", words.duration(run.seconds)),
        ("tokens per second", words.count(run.tokens_per_second)),
        ("FLOPs", words.power(run.flops)),
        ("FLOP per second", words.power(run.flops / run.seconds if run.flops and run.seconds else None)),
        ("device time", words.duration(run.seconds * run.devices if run.seconds and run.devices > 1 else None)),
    ]
    big = "".join(
        f'<div class="figure"><dt>{name}</dt><dd>{value}</dd><dd class="note">{escape(note)}</dd></div>' for name, value, note in whole
    )
    rest = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in small if value != words.ABSENT)
    result = (
        paragraph("There is no evaluation yet.", "absent")
        if run.val_loss is None and run.bits_per_byte is None
        else f'<dl class="figures">{big}</dl>'
    )
    standing = paragraph(f"Validation loss {run.standing}", "standing") if run.standing else ""
    return result + standing + (f'<dl class="facts">{rest}</dl>' if rest else "")


def _agreed(runs: Runs) -> dict[str, float]:
    """What the compressors need, if all runs that know it say the same, and so were measured on the same text."""
    found: dict[str, float] = {}
    for run in runs:
        for name, bits in run.compressors.items():
            if abs(found.setdefault(name, bits) - bits) > 1e-3:
                return {}
    return found


def _compressors(runs: Runs) -> dict[str, float]:
    """The bars of the compressors; where the runs have different texts, each run's own."""
    if agreed := _agreed(runs):
        return agreed
    return {f"{name}, text of {run.name}": bits for run in runs for name, bits in run.compressors.items()}


def _compression_sentence(run: Summary, compressors: Mapping[str, float], several: bool) -> str:
    bits = run.bits_per_byte or 0.0
    name = f"“{run.name}”" if several else "the model"
    start = "Whoever can guess the next letter needs fewer bits to write a text down. Of the 8 bits of each byte of text, "
    others = [(bits_needed, compressor) for compressor, bits_needed in compressors.items()]
    if not others:
        return f"{start}{bits:.2f} would be enough with the guesses of {name}."
    least, compressor = min(others)
    told = words.listing([f"{other} needs {needed:.2f}" for needed, other in sorted(others, reverse=True)])
    if bits <= 0:
        return f"{start}{told}."
    ratio = least / bits
    if ratio >= 1.05:
        versus = f"; {compressor} needs {ratio:.1f} times as many"
    else:
        versus = f", about as many as with {compressor}" if ratio > 0.95 else f", not yet fewer than with {compressor}"
    return f"{start}{told}; with the guesses of {name}, {bits:.2f} would be enough{versus}."


def _measured_on(run: Summary) -> str:
    size = f", {words.size(run.val_bytes)} of it" if run.val_bytes else ""
    return f"Bits per byte of the same validation text{size}, held back from training. The size of the model itself is not counted."


def _loss_note(run: Summary) -> str:
    n = len(run.curves["loss"])
    points = f"{len(run.curves['val_loss']):,} points of validation" if len(run.curves["val_loss"]) else "no validation yet"
    if not n:
        return f"No training loss was logged; {points}."
    beside = " Dashed and grey: what others published." if run.references else ""
    return f"Each of {n:,} logged steps pale and thin, their moving average bold; {points}.{beside}"


def _chart(name: str, heading: str, note: str, picture: str) -> str:
    log = f'<label class="switch needs-script"><input type="checkbox" class="log-y" data-for="{name}"><span>logarithmic</span></label>'
    still = f'<div class="still">{picture}</div>' if picture else ""
    kind = "wide" if name == "loss" else "small needs-script"
    told = paragraph(note, "note") if note else ""
    lid = (
        '<p class="note lid" hidden>The first steps lie above the frame; zoom in on them or choose a logarithmic axis.</p>'
        if name == "loss"
        else ""
    )
    moment = '<output class="moment needs-script"></output>' if name == "loss" else ""
    caption = f"<figcaption><h3>{heading}</h3>{moment}{log}</figcaption>"
    return f'<figure class="chart {kind}" data-chart="{name}">{caption}{told}<div class="plot"></div>{still}{lid}</figure>'


def _sample_page(page: list[dict[str, Any]]) -> str:
    step, tokens = number(page[0].get("step")), number(page[0].get("tokens"))
    label = f"step {words.decimal(step, 0)}" + (f", {words.count(tokens)} tokens" if tokens else "")
    texts = []
    for event in page:
        prompt, text = (str(event.get(key) or "") for key in ("prompt", "text"))
        text = text.removeprefix(prompt) if prompt else text
        cut = " […]" if len(text) > MAX_SAMPLE_TEXT else ""
        mark = f'<mark title="the prompt">{escape(prompt[:MAX_SAMPLE_TEXT])}</mark>' if prompt else ""
        texts.append(f'<blockquote dir="auto">{mark}{escape(text[:MAX_SAMPLE_TEXT])}{cut}</blockquote>')
    return f'<article class="sample" data-label="{escape(label)}"><h4>{escape(label)}</h4>{"".join(texts)}</article>'


def detail(event: Mapping[str, Any]) -> str:
    """What an event says, in a line."""
    skipped = ("event", "step", "tokens", "time", "seconds", CLOCK, "compressors", "settings", "versions")
    if event["event"] in ("checkpoint", "skip", "stop", "rollback") and (said := event.get("path") or event.get("reason")):
        return str(said)[:500]
    told = ((key.replace("_", " "), event[key]) for key in event if key not in skipped and isinstance(event[key], str | int | float))
    return ", ".join(f"{key} {_brief(value)}" for key, value in told)[:500]


def _event_row(event: dict[str, Any], seconds: float, name_html: str) -> list[str]:
    kind = event["event"]
    cells = [words.decimal(number(event.get("step")), 0), words.count(number(event.get("tokens"))), words.duration(seconds)]
    when = words.moment(number(event.get("time")))
    return [f'{name_html}<span class="event {escape(kind)}">{escape(kind)}</span>', *map(escape, [*cells, when, detail(event)])]


def _brief(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int and abs(value) < 1e18 else str(value)


def _data_sentence(run: Summary) -> str:
    manifest = run.record.data or {}
    named = words.listing(sources(manifest), 6)
    tokens, size = amount(manifest, "tokens"), amount(manifest, "bytes")
    parts = [f"{words.count(documents)} documents" if (documents := amount(manifest, "documents")) is not None else ""]
    parts += [f"{words.count(tokens)} tokens" if tokens is not None else "", f"{words.size(size)} of text" if size is not None else ""]
    tokenizer = manifest.get("tokenizer")
    tokenizer = tokenizer.get("name") if isinstance(tokenizer, dict) else tokenizer
    parts.append(f"tokenizer {tokenizer}" if isinstance(tokenizer, str) else "")
    told = ", ".join(part for part in parts if part)
    passes = f" The run read {run.tokens / tokens:.2f} times as many tokens as there are." if run.tokens and tokens else ""
    return f"{': '.join(part for part in (named, told) if part) or 'Recorded, without the usual figures'}.{passes}"
