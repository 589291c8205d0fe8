"""The model card: what a model is, what it read, what it cost, how well it does, what it is for and where it fails.

markdown(summary(record), transformers=True)    # README.md beside the weights, with Hugging Face's front matter
section(runs)                                   # the same in the report, a part for each finished run
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from daybreak.config import to_dict
from daybreak.model.config import GPTConfig
from daybreak.report import prose, words
from daybreak.report.curves import number
from daybreak.report.markup import escape
from daybreak.report.markup import section as page_section
from daybreak.report.prose import Block, Code, Heading, Items, Paragraph, Rows
from daybreak.report.record import Summary, amount, sources
from daybreak.report.tasks import published

_SIZES = ("n_layer", "n_head", "d_model", "context_length", "vocab_size")
_MOST_SAMPLES = 3
_MOST_SAMPLE_TEXT = 600


def markdown(run: Summary, *, transformers: bool) -> str:
    """The card as Markdown. `transformers`: whether that library opens the model as it is."""
    return f"{_front(run, transformers)}\n# {run.name}\n\n{prose.markdown(blocks(run, transformers=transformers))}"


def section(runs: Sequence[Summary]) -> str:
    """The cards of finished runs, folded; nothing at all where none is finished."""
    parts = []
    for run in runs:
        if run.state == "finished":
            name = f"the card of {run.name}" if len(runs) > 1 else "the card"
            told = prose.html(blocks(run, transformers=_is_gpt2(run)))
            parts.append(f'<details><summary>{escape(name)}</summary><div class="card">{told}</div></details>')
    if not parts:
        return ""
    note = prose.html([Paragraph("It lies beside the weights too, as `model/README.md`, ready to be published with them.")])
    return page_section("card", "Model card", note + "".join(parts))


def blocks(run: Summary, *, transformers: bool) -> list[Block]:
    """The card's text."""
    return [
        Paragraph(
            f"A language model with {words.count(run.parameters)} parameters, trained from scratch with daybreak on "
            f"{words.count(run.tokens)} tokens of {_texts(run)}. It continues a text that it is given."
        ),
        *_model(run),
        *_data(run),
        *_training(run),
        *_evaluation(run),
        *_samples(run),
        *_limits(run),
        *_loading(transformers),
    ]


def _front(run: Summary, transformers: bool) -> str:
    """Hugging Face's front matter."""
    wanted = _group(run, "card")
    licence, language = wanted.get("license"), wanted.get("language")
    lines = [
        "---",
        f"license: {json.dumps(licence)}" if licence else "# license: for whoever publishes the model to choose, such as mit or apache-2.0",
        *([f"language: {json.dumps(language)}"] if language else []),
        f"library_name: {'transformers' if transformers else 'daybreak'}",
        "pipeline_tag: text-generation",
        "tags:",
        "- daybreak",
        *(["- gpt2"] if transformers else []),
        "---",
    ]
    return "\n".join(lines) + "\n"


def _model(run: Summary) -> Iterator[Block]:
    shape = _group(run, "model")
    told = [
        f"{words.decimal(number(shape.get(name)), 0)} {said}" for name, said in zip(_SIZES, _SIZE_WORDS, strict=True) if shape.get(name)
    ]
    others = [f"`{name}={_written(value)}`" for name, value in _others(run).items()]
    tokenizer = (run.record.data or {}).get("tokenizer")
    rows = [
        ("parameters", words.decimal(run.parameters, 0)),
        ("shape", ", ".join(told)),
        ("architecture", f"GPT-2's but for {', '.join(others)}" if others else "GPT-2's"),
        ("tokenizer", str(tokenizer.get("name")) if isinstance(tokenizer, Mapping) else words.ABSENT),
        ("recipe", f"`{run.record.settings.get('recipe', words.ABSENT)}`"),
    ]
    yield Heading("The model")
    yield Rows(("", ""), tuple(rows))


_SIZE_WORDS = ("layers", "heads", "wide", "tokens of context", "ids in the vocabulary")


def _data(run: Summary) -> Iterator[Block]:
    yield Heading("The data")
    data = run.record.data
    if not data:
        yield Paragraph("Nothing is recorded about the text that it was trained on.")
        return
    splits = [split for name in ("train", "val") if isinstance(split := data.get(name), Mapping)]
    tokens = [number(split.get("tokens")) for split in splits]
    size = sum(number(split.get("text_bytes")) or 0 for split in splits)
    rows = [
        ("sources", _texts(run)),
        ("documents", words.decimal(amount(data, "documents"), 0)),
        ("exact copies left out", words.decimal(number(data.get("duplicates")), 0)),
        ("tokens to train on", words.decimal(tokens[0], 0) if tokens else words.ABSENT),
        ("tokens held back", words.decimal(tokens[1], 0) if len(tokens) > 1 else words.ABSENT),
        ("text", words.size(size) if size else words.ABSENT),
        ("fingerprint", f"`{data.get('fingerprint', words.ABSENT)}`"),
    ]
    yield Rows(("", ""), tuple(rows))


def _training(run: Summary) -> Iterator[Block]:
    train, facts = _group(run, "train"), run.record.facts
    begun = next((event for event in run.events if event["event"] == "start"), {})
    hours = None if run.seconds is None else run.seconds * run.devices / 3600
    rows = [
        ("tokens read", f"{words.decimal(run.tokens, 0)} in {words.decimal(run.steps, 0)} steps of {_written(train.get('batch_tokens'))}"),
        ("passes over the text", words.decimal(_epochs(run), 2)),
        ("optimizer", f"{train.get('optimizer', words.ABSENT)}, learning rate {_written(train.get('learning_rate'))}"),
        ("schedule", _written(train.get("schedule", "cosine"))),
        ("weight decay, clipping", f"{_written(train.get('weight_decay'))}, {_written(train.get('grad_clip'))}"),
        ("seed", _written(train.get("seed"))),
        ("machine", f"{run.devices:,.0f} x {run.device or words.ABSENT}, {facts.get('precision', words.ABSENT)}"),
        ("time", f"{words.duration(run.seconds)}, {words.decimal(hours, 2)} device-hours"),
        ("compute", f"{words.power(run.flops)} FLOP by 6N + attention; energy was not measured"),
        ("made with", f"torch {facts.get('torch', begun.get('torch', words.ABSENT))}, Python {facts.get('python', words.ABSENT)}"),
    ]
    yield Heading("Training, and the compute spent")
    yield Rows(("", ""), tuple(rows))


def _evaluation(run: Summary) -> Iterator[Block]:
    yield Heading("Evaluation")
    end: Mapping[str, Any] = next((event for event in reversed(run.events) if event["event"] == "end"), {})
    rows = [
        ("validation loss", words.decimal(run.val_loss, 4), "nats per token"),
        ("perplexity", words.decimal(run.perplexity, 2), "per token"),
        ("bits per byte", words.decimal(run.bits_per_byte, 4), "whatever the tokenizer"),
        *(
            (f"bits per byte of {name}", words.decimal(bits, 4), "a general compressor, for comparison")
            for name, bits in run.compressors.items()
        ),
    ]
    size = f"{words.decimal(number(end.get('val_tokens')), 0)} tokens, {words.size(run.val_bytes)}"
    yield Paragraph(f"On text held back from training ({size}):")
    yield Rows(("measure", "value", "unit"), tuple(rows))
    if run.standing:
        yield Paragraph(f"Validation loss {run.standing}")
    if tasks := list(_tasks(run)):
        yield Paragraph("On tasks, with standard errors, beside what was published of the models nearest in size by the same protocol:")
        yield Rows(("task", "protocol", "metric", "value", "items", "published"), tuple(tasks))
        yield Paragraph("The same task read by another protocol gives other figures. Two values a standard error apart are not different.")
    else:
        yield Paragraph("It was not evaluated on tasks.")


def _tasks(run: Summary) -> Iterator[tuple[str, ...]]:
    last: Mapping[str, Any] = next((event for event in reversed(run.events) if event["event"] == "tasks"), {})
    told = last.get("tasks")
    for task, result in told.items() if isinstance(told, Mapping) else ():
        if not isinstance(result, Mapping) or not isinstance(result.get("metrics"), Mapping):
            continue
        protocol = str(result.get("protocol", ""))
        for metric, row in result["metrics"].items():
            stderr = number(row.get("stderr"))
            value = words.decimal(number(row.get("value")), 4) + (f" ± {stderr:.4f}" if stderr is not None else "")
            beside = published(run, str(task), protocol, str(metric)) or words.ABSENT
            yield str(task), protocol, str(metric), value, words.decimal(number(row.get("n")), 0), beside


def _samples(run: Summary) -> Iterator[Block]:
    last = next((event.get("step") for event in reversed(run.events) if event["event"] == "sample"), None)
    told = [event for event in run.events if event["event"] == "sample" and event.get("step") == last and event.get("text")]
    if not told:
        return
    yield Heading("What it writes")
    yield Paragraph("As it came at the end of training, not chosen.")
    for event in told[:_MOST_SAMPLES]:
        prompt, text = str(event.get("prompt") or ""), str(event["text"])
        yield Code(_shown(prompt + (text.removeprefix(prompt) if prompt else text))[:_MOST_SAMPLE_TEXT], "text")


def _limits(run: Summary) -> Iterator[Block]:
    epochs = _epochs(run)
    again = f" It has read its text {epochs:.1f} times over, which makes this likelier." if epochs and epochs > 1.5 else ""
    yield Heading("What it is for, and its limits")
    yield Items(
        (
            "It is for learning, for research, and for experiments with language models. It is no product, and nobody should rely on it.",
            "It continues text. It was not taught to follow instructions, to hold a conversation or to refuse anything.",
            "What it says may be wrong, however fluent it is; it has no notion of truth and knows of nothing after its text was collected.",
            f"It knows what stands in {_texts(run)}, in the languages and with the leanings of that text, and next to nothing else.",
            f"It may repeat passages of that text word for word, whatever their licence, and personal data that stood in it.{again}",
            "It was not examined for bias, for toxicity or for any other harm; whoever puts it before others has to do so.",
        )
    )


def _loading(transformers: bool) -> Iterator[Block]:
    yield Heading("How to load it")
    yield Code(
        "import daybreak as db\n\n"
        'model = db.load("MODEL_DIR")  # the folder of this file\n'
        'print("".join(model.write("The sun", max_tokens=50)))',
        "python",
    )
    if not transformers:
        yield Paragraph("Its architecture is not one that `transformers` knows, so it is read by daybreak only.")
        return
    yield Paragraph("With `transformers`, which opens it as it is:")
    yield Code(
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("MODEL_DIR")\n'
        'model = AutoModelForCausalLM.from_pretrained("MODEL_DIR")\n'
        'tokens = tokenizer("The sun", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**tokens, max_new_tokens=50, do_sample=True)[0]))",
        "python",
    )


def _is_gpt2(run: Summary) -> bool:
    """Whether the model's settings are GPT-2's, so that its class in `transformers` can say them."""
    return not set(_others(run)) - {"dropout"}


def _others(run: Summary) -> dict[str, Any]:
    """The settings of the model, but its sizes, that are not GPT-2's."""
    usual = to_dict(GPTConfig())
    return {name: value for name, value in _group(run, "model").items() if name not in _SIZES and value != usual.get(name)}


def _texts(run: Summary) -> str:
    """The sources by name; of files on a machine's disk only how they are called, since the card is to be published."""
    named = sources(run.record.data or {})
    return words.listing([PurePath(name).name if PurePath(name).is_absolute() else name for name in named], 6) or "a text"


def _epochs(run: Summary) -> float | None:
    split = (run.record.data or {}).get("train")
    tokens = number(split.get("tokens")) if isinstance(split, Mapping) else None
    return run.tokens / tokens if run.tokens and tokens else None


def _group(run: Summary, name: str) -> Mapping[str, Any]:
    group = run.record.settings.get(name)
    return group if isinstance(group, Mapping) else {}


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def _shown(text: str) -> str:
    """A sample without the control characters that a young model may write."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)
