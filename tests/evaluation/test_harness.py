"""The harness's own code on a tiny model: its scores are those of a plain computation, and of our own suite on the same items."""

import json
import math
import os
import sys

import numpy as np
import pytest
import torch

from daybreak.data.tokenizer import load_tokenizer
from daybreak.evaluation import harness, suite
from daybreak.evaluation.harness import Answers, figures
from daybreak.evaluation.items import TaskProblem
from daybreak.model.config import GPTConfig
from daybreak.model.init import build

TOKENIZER = load_tokenizer("bytes")
CONTEXT = 48
MODEL = build(GPTConfig(vocab_size=257, context_length=CONTEXT, n_layer=2, n_head=2, d_model=32, init_std=0.3), 0).eval()

CHOICES = [
    {"context": "The sun rises in the", "endings": ["east.", "west, I think.", "north"], "label": 0},
    {"context": "A model learns", "endings": ["from text", "nothing", "at night, by the light of"], "label": 2},
    {"context": "Every token of this long context, which does not fit, counts", "endings": ["a little", "much more than that"], "label": 1},
    {"context": "One", "endings": ["two", "two three"], "label": 0},
]
WORDS = [{"text": text} for text in ("The night falls over the hill", "a café in the east", "once more and again")]
TEXTS = [{"text": text} for text in ("The sun rises. It falls again, and the night waits for the day that comes after it.", "short", "é")]


@torch.no_grad()
def plain(context, continuation):
    """Log-likelihood and greediness of a continuation, one token at a time, by the harness's rules."""
    head = context.rstrip()
    ids = TOKENIZER.encode(context + continuation).tolist()
    begin = len(TOKENIZER.encode(head))
    total, greedy = 0.0, True
    for at in range(begin, len(ids)):
        before = ([TOKENIZER.eot] if begin == 0 else []) + ids[:at]
        whole = max(0, len(ids) - 1 - CONTEXT) if begin else 0  # all of a continuation sees the same beginning
        logits = MODEL(torch.tensor([before[whole:]]))[0, -1].double()
        total += float(logits.log_softmax(-1)[ids[at]])
        greedy &= int(logits.argmax()) == ids[at]
    return total, greedy


@torch.no_grad()
def plain_rolling(text):
    """A text in windows of the context: each id is predicted once, those of the last window behind as much as fits."""
    ids = [TOKENIZER.eot, *TOKENIZER.encode(text).tolist()]
    total = 0.0
    for at in range(1, len(ids)):
        end = min(len(ids) - 1, -(-at // CONTEXT) * CONTEXT)
        logits = MODEL(torch.tensor([ids[max(0, end - CONTEXT) : at]]))[0, -1].double()
        total += float(logits.log_softmax(-1)[ids[at]])
    return total


def answers(**more):
    return Answers(MODEL, TOKENIZER, context_length=CONTEXT, **more)


# --- what is asked of the model, without the harness -------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 100, 4096])
def test_likelihoods_are_those_computed_one_by_one(budget):
    pairs = [(row["context"], " " + ending) for row in CHOICES for ending in row["endings"]]
    pairs += [("", "A new text."), ("spaces  ", "at the end"), ("One", " two"), (" ", "x")]
    found = answers(token_budget=budget).likelihoods(pairs)
    assert len(found) == len(pairs)
    for (context, continuation), likelihood in zip(pairs, found, strict=True):
        total, greedy = plain(context, continuation)
        assert likelihood.log_likelihood == pytest.approx(total, rel=1e-4), (context, continuation)
        assert likelihood.greedy == greedy


def test_a_text_longer_than_the_context_is_predicted_whole():
    texts = [row["text"] for row in TEXTS] + ["", "x" * CONTEXT, "y" * (2 * CONTEXT + 1)]
    assert answers().text_likelihoods(texts) == pytest.approx([plain_rolling(text) for text in texts], rel=1e-4)


class Typist:
    """A predictor that always writes the same text."""

    def __init__(self, text):
        self.ids = [*TOKENIZER.encode(text).tolist(), TOKENIZER.eot]
        self.seen = []

    def __call__(self, tokens, kv_cache=None):
        self.seen.append(tokens[0].tolist())
        logits = torch.zeros(*tokens.shape, 257)
        logits[:, -1, self.ids[len(self.seen) - 1]] = 50.0
        return logits


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, "Four. Five\n\nSix"),
        ({"until": ["\n\n"]}, "Four. Five"),
        ({"until": [". ", "\n"]}, "Four"),
        ({"until": "Six"}, "Four. Five\n\n"),
        ({"until": ["never", ""]}, "Four. Five\n\nSix"),
        ({"max_gen_toks": 3}, "Fou"),
        ({"do_sample": True, "temperature": 0.5, "max_gen_toks": 4}, "Four"),
        ({"do_sample": True, "temperature": 0}, "Four. Five\n\nSix"),
    ],
)
def test_answers_end_where_the_task_says(options, wanted):
    written = Answers(Typist("Four. Five\n\nSix"), TOKENIZER, context_length=100).written("Two and two is", options)
    assert written == wanted


def test_a_prompt_that_leaves_no_room_loses_its_beginning():
    typist = Typist("abc")
    Answers(typist, TOKENIZER, context_length=16).written("0123456789abcdef", {"max_gen_toks": 6})
    assert TOKENIZER.decode(typist.seen[0]) == "6789abcdef"
    typist = Typist("abc")
    Answers(typist, TOKENIZER, context_length=16).written("", {})
    assert typist.seen[0] == [TOKENIZER.eot]


def test_greedy_answers_are_what_the_model_finds_likeliest():
    written = answers().written("The sun", {"max_gen_toks": 5})
    ids = TOKENIZER.encode("The sun").tolist()
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(MODEL(torch.tensor([ids]))[0, -1].argmax()))
    assert written == TOKENIZER.decode(ids[len("The sun") :])


def test_results_in_our_form():
    came = {
        "a": {
            "alias": "a",
            "name": "a",
            "sample_len": 9,
            "acc,none": 0.5,
            "acc_stderr,none": 0.1,
            "exact,strict": 0.25,
            "exact_stderr,strict": "N/A",
        },
        "group": {"alias": "group", "acc,none": 0.5, "acc_stderr,none": 0.2},
        "empty": {"alias": "empty"},
    }
    assert figures(came, {"a": 4}) == {
        "a": {"acc": {"value": 0.5, "stderr": 0.1, "n": 4}, "exact,strict": {"value": 0.25, "stderr": None, "n": 4}},
        "group": {"acc": {"value": 0.5, "stderr": 0.2, "n": None}},
    }


def test_a_missing_package_is_told_with_the_command(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("builtins.__import__", _without_lm_eval(__import__))
    with pytest.raises(TaskProblem, match=r"^harness: needs the package lm-eval; install it with: pip install 'daybreak\[harness\]'$"):
        harness.run(MODEL, TOKENIZER, ["arc_easy"], context_length=CONTEXT)


def _without_lm_eval(original):
    def imports(name, *rest, **more):
        if name.partition(".")[0] == "lm_eval":
            raise ModuleNotFoundError(f"No module named {name!r}", name="lm_eval")
        return original(name, *rest, **more)

    return imports


# --- the harness itself ------------------------------------------------------------------------------------------------------

TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
test_split: test
"""
# As the official files have them, what the harness's own rules clean away included.
HELLASWAG = [
    {"activity_label": label, "ctx": f"{a} {b}".strip(), "ctx_a": a, "ctx_b": b, "endings": endings, "label": number, "ind": number}
    for number, (label, a, b, endings) in enumerate(
        [
            (
                "Roof shingle removal",
                "A man is sitting on a roof.",
                "he",
                ["is using wrap.", "is ripping [substeps] tiles off.", "falls", "x  y"],
            ),
            ("Finance", "[header] How to save [title] Open an account. [step] Go to a bank.", "", ["[substeps] Ask.", "Run [title] Hide."]),
            ("Waiting", "One  waits.", "the other", ["waits too", "goes home early", " leaves"]),
        ]
    )
]
HELLASWAG_LINES = """process_docs: !function rules.process_docs
doc_to_text: "{{query}}"
doc_to_target: "{{gold}}"
doc_to_choice: choices"""
PAGES = [
    ' = The Dawn = \n \n The sun \'s first rays , at 5 @.@ 30 , fall on " the hill " ( in the east ) . \n = = Later = = \n It rises . \n',
    " = Night = \n A well @-@ known night \n",
]
WIKITEXT_LINES = """doc_to_text: ""
doc_to_target: !function rules.wikitext_detokenizer
process_results: !function rules.process_results"""
RULES = """from lm_eval.tasks.hellaswag.utils import process_docs
from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer
"""
KINDS = {
    "dawn_choice": (
        CHOICES,
        "multiple_choice",
        'doc_to_text: "{{context}}"\ndoc_to_choice: endings\ndoc_to_target: label',
        ("acc", "acc_norm"),
    ),
    "dawn_word": (
        WORDS,
        "loglikelihood",
        "doc_to_text: \"{{text.split(' ')[:-1]|join(' ')}}\"\ndoc_to_target: \"{{' '+text.split(' ')[-1]}}\"\ntarget_delimiter: \"\"",
        ("acc", "perplexity"),
    ),
    "dawn_text": (
        TEXTS,
        "loglikelihood_rolling",
        'doc_to_text: ""\ndoc_to_target: "{{text}}"',
        ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    ),
    "dawn_hellaswag": (HELLASWAG, "multiple_choice", HELLASWAG_LINES, ("acc", "acc_norm")),
    "dawn_wikitext": (
        [{"page": page} for page in PAGES],
        "loglikelihood_rolling",
        WIKITEXT_LINES,
        ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    ),
    "dawn_written": (
        [{"question": "Two and two is", "answer": "Four"}],
        "generate_until",
        "doc_to_text: question\ndoc_to_target: answer\ngeneration_kwargs: {until: ['.'], max_gen_toks: 8}",
        ("exact_match",),
    ),
}


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory):
    """Six tasks of the harness, in its YAML form, on files of this machine."""
    folder = tmp_path_factory.mktemp("harness")
    (folder / "rules.py").write_text(RULES, encoding="utf-8")
    for name, (rows, kind, text, metrics) in KINDS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        head = TASK.format(name=name, data=data, cache=folder / "cache")
        listed = "".join(f"  - metric: {metric}\n" for metric in metrics)
        (folder / f"{name}.yaml").write_text(f"{head}output_type: {kind}\n{text}\nmetric_list:\n{listed}", encoding="utf-8")
    return folder


@pytest.fixture
def run(task_folder, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'daybreak[harness]'")
    import lm_eval.evaluator

    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)  # two seconds of asking the system for its versions

    def run(*names, model=MODEL, **more):
        return harness.run(model, TOKENIZER, names, context_length=CONTEXT, task_folder=task_folder, **more)

    return run


pytestmark = pytest.mark.filterwarnings("ignore")  # the harness and its data library have some of their own


def test_scores_are_those_of_a_plain_computation(run):
    result = run("dawn_choice", "dawn_word", "dawn_text")
    right, right_by_length = [], []
    for row in CHOICES:
        likelihoods = np.array([plain(row["context"], " " + ending)[0] for ending in row["endings"]])
        right.append(likelihoods.argmax() == row["label"])
        right_by_length.append((likelihoods / [len(ending) for ending in row["endings"]]).argmax() == row["label"])
    assert result["dawn_choice"]["acc"]["value"] == np.mean(right)
    assert result["dawn_choice"]["acc_norm"]["value"] == np.mean(right_by_length)
    assert result["dawn_choice"]["acc"]["stderr"] == pytest.approx(np.std(right, ddof=1) / math.sqrt(len(CHOICES)))
    assert result["dawn_choice"]["acc"]["n"] == len(CHOICES)

    words = [plain(row["text"].rpartition(" ")[0], " " + row["text"].rpartition(" ")[2]) for row in WORDS]
    assert result["dawn_word"]["perplexity"]["value"] == pytest.approx(math.exp(-np.mean([total for total, _ in words])), rel=1e-4)
    assert result["dawn_word"]["acc"]["value"] == np.mean([greedy for _, greedy in words])
    assert result["dawn_word"]["perplexity"]["stderr"] > 0

    nats = -sum(plain_rolling(row["text"]) for row in TEXTS)
    text_bytes = sum(len(row["text"].encode()) for row in TEXTS)
    assert result["dawn_text"]["bits_per_byte"]["value"] == pytest.approx(nats / text_bytes / math.log(2), rel=1e-4)
    assert result["dawn_text"]["byte_perplexity"]["value"] == pytest.approx(math.exp(nats / text_bytes), rel=1e-4)
    assert result["dawn_text"]["bits_per_byte"]["stderr"] is None


def test_our_suite_scores_the_same_items_alike(run, task_folder, tmp_path):
    """Each task as ours reads it, and as the harness does, with its own rules where it has some."""
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in CHOICES), encoding="utf-8")
    wiki = tmp_path / "wiki.test.raw"
    wiki.write_text("\n".join(PAGES), encoding="utf-8")
    ours = {
        "dawn_choice": str(own),
        "dawn_word": f"lambada={task_folder / 'dawn_word.jsonl'}",
        "dawn_text": str(task_folder / "dawn_text.jsonl"),
        "dawn_hellaswag": f"hellaswag:harness={task_folder / 'dawn_hellaswag.jsonl'}",
        "dawn_wikitext": f"wikitext={wiki}",
    }
    theirs = run(*ours)
    for name, task in zip(ours, suite.open_tasks(list(ours.values()), TOKENIZER), strict=True):
        result = suite.run(task, MODEL, context_length=CONTEXT).figures()
        assert set(theirs[name]) == set(result)
        for metric, figure in result.items():
            assert figure.value == pytest.approx(theirs[name][metric]["value"], rel=1e-4), (name, metric)
            assert figure.n == theirs[name][metric]["n"]
            if metric.startswith("acc"):
                assert figure.stderr == pytest.approx(theirs[name][metric]["stderr"])


def test_written_answers_are_compared(run, capsys):
    assert run("dawn_written", model=Typist("Four. Five"))["dawn_written"]["exact_match"]["value"] == 1.0
    assert run("dawn_written", model=Typist("Three"))["dawn_written"]["exact_match"]["value"] == 0.0
    assert capsys.readouterr().out == ""  # standard output is for the result alone


def test_a_limit_takes_the_first_items(run, monkeypatch):
    monkeypatch.setenv("DISABLE_MULTIPROC", "as it was")
    state = torch.random.get_rng_state()
    assert run("dawn_choice", limit=2)["dawn_choice"]["acc"]["n"] == 2
    assert os.environ["DISABLE_MULTIPROC"] == "as it was"
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_models_precision_is_the_callers(run):
    seen = []

    def predict(tokens, kv_cache=None):
        seen.append(torch.is_autocast_enabled("cpu"))
        return MODEL(tokens, kv_cache)

    run("dawn_word", model=predict, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert set(seen) == {True}
    assert not torch.is_autocast_enabled("cpu")


def test_a_wrong_name_is_told_with_the_nearest(run, monkeypatch):
    import lm_eval.tasks

    whole = lm_eval.tasks.TaskManager
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", lambda include_path, include_defaults=False: whole(include_path=include_path, include_defaults=False)
    )
    with pytest.raises(TaskProblem, match=r"^harness:dawn_choise: no such task of the harness; did you mean dawn_choice\?$"):
        run("dawn_word", "dawn_choise")
    with pytest.raises(TaskProblem, match=r"^harness:qqqqq: no such task of the harness; `lm-eval ls tasks` lists them all$"):
        run("qqqqq")


def test_a_folder_that_is_not_there_and_data_that_are_not_are_told(run, task_folder, tmp_path):
    with pytest.raises(TaskProblem, match="wanted a folder of the harness's task files, found none there"):
        harness.run(MODEL, TOKENIZER, ["dawn_word"], context_length=CONTEXT, task_folder=tmp_path / "nothing")
    text = (task_folder / "dawn_word.yaml").read_text(encoding="utf-8").replace("dawn_word", "dawn_gone")
    (tmp_path / "dawn_gone.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(
        TaskProblem, match=r"^dawn_gone: the data could not be loaded \(.*dawn_gone\.jsonl.*\); they come from .* stay in its cache$"
    ) as caught:
        harness.run(MODEL, TOKENIZER, ["dawn_gone"], context_length=CONTEXT, task_folder=tmp_path)
    assert "\n" not in str(caught.value)
