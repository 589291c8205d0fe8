"""`daybreak import` and `export` as they are typed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from daybreak import loading, pretrained
from daybreak.cli import main
from daybreak.data.tokenizer import load_tokenizer
from daybreak.model.config import GPTConfig
from daybreak.model.init import build


@pytest.fixture(autouse=True)
def place(tmp_path, run_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_dir, "run")


def refused(capsys, *words):
    """What is said of a wrong request, which leaves nothing."""
    before = sorted(Path().rglob("*"))
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sorted(Path().rglob("*")) == before
    assert err.startswith("error: ")
    return err


def banded():
    """A model that no form but ours can say."""
    shape = GPTConfig(
        vocab_size=257, context_length=16, n_layer=2, n_head=2, d_model=16, attention_pattern=("dense", "banded"), attention_band=4
    )
    loading.write_model(Path("banded"), build(shape, 0), load_tokenizer("bytes"))


def test_a_banded_model_leaves_in_our_own_form_only(capsys):
    banded()
    told = refused(capsys, "export", "banded", "--out", "sent")
    assert "of the layers 0 to 1, 1 look back only 4 tokens, which GPT2LMHeadModel cannot say; write it with --format daybreak" in told
    assert told.count("\n") == 1
    assert main(["export", "banded", "--format", "daybreak", "--out", "sent"]) == 0
    assert main(["import", "sent", "--out", "back"]) == 0
    assert loading.load("back", device="cpu").config.band(1) == 4
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert Path("banded", name).read_bytes() == Path("sent", name).read_bytes() == Path("back/model", name).read_bytes()


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("form", ["hf", "daybreak"])
def test_weights_of_half_the_size(form, dtype, kind, capsys):
    assert main(["export", "run", "--format", form, "--dtype", dtype, "--out", "sent"]) == 0
    assert {tensor.dtype for tensor in load_file("sent/model.safetensors").values()} == {kind}
    assert json.loads(Path("sent/config.json").read_text()).get("dtype") == (str(kind)[6:] if form == "hf" else None)
    sizes = [Path(folder, "model.safetensors").stat().st_size for folder in ("sent", "run/model")]
    assert sizes[0] < 0.6 * sizes[1]
    whole, half = (loading.load(folder, device="cpu").gpt.state_dict() for folder in ("run", "sent"))
    assert all(torch.equal(half[name][:257], tensor[:257].to(kind).float()) for name, tensor in whole.items())


def test_what_cannot_be_asked_is_told_at_once(capsys):
    told = refused(capsys, "export", "run", "--format", "pickle", "--dtype", "fp32x", "--out", "sent")
    assert told.splitlines() == [
        "error: --format: wanted hf, gguf, onnx or daybreak, came 'pickle'",
        "error: --dtype: wanted fp32, bf16, fp16, came 'fp32x'; did you mean fp32?",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "gpt2-xxl",
            "did you mean gpt2-xl?; where there is a network, `hf download OWNER/NAME --local-dir DIR`, then `daybreak import DIR`",
        ),
        (
            "owner/other",
            "by name there are gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2; where there is a network, `hf download owner/other",
        ),
    ],
)
def test_a_name_that_is_none(name, words, capsys):
    told = refused(capsys, "import", name, "--out", "new")
    assert f"{name}: no such folder, and no model that is known here by name" in told
    assert words in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2"])
def test_a_published_model_by_its_name(name, tmp_path, monkeypatch, capsys):
    asked = []

    def published(model):
        asked.append(model)
        return loading.load("run", device="cpu")

    monkeypatch.setattr(loading, "load_pretrained", published)
    assert main(["import", name, "--out", "new", "--json"]) == 0
    out, err = capsys.readouterr()
    assert asked == [pretrained.PRETRAINED["gpt2"]]
    assert err.startswith("fetching openai-community/gpt2, unless it is in ")
    assert json.loads(out)["model"] == str(Path("new/model"))
    assert (Path("new/model/model.safetensors")).read_bytes() == Path("run/model/model.safetensors").read_bytes()


def test_a_folder_of_a_published_name_is_the_folder(monkeypatch, capsys):
    monkeypatch.setattr(loading, "load_pretrained", None)
    shutil.copytree("run/model", "gpt2")
    assert main(["import", "gpt2", "--out", "new"]) == 0


def test_a_published_name_where_a_folder_is_wanted_is_told_how(capsys):
    told = refused(capsys, "sample", "gpt2")
    assert "gpt2: no such folder, wanted a run's folder; `daybreak import gpt2 --out RUN_DIR` brings in the published model" in told


def test_without_a_vocabulary_nothing_large_is_fetched(monkeypatch, capsys):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "none")
    monkeypatch.setattr("daybreak.data.ranks.RANK_FILE_URL", "http://127.0.0.1:9/r50k_base.tiktoken")
    monkeypatch.setattr(loading, "fetch", None)
    monkeypatch.delenv("DAYBREAK_GPT2_VOCAB", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    assert main(["import", "gpt2", "--out", "new"]) == 2
    assert "error: tokenizer gpt2: its vocabulary is in neither of" in capsys.readouterr().err
    assert not Path("new").exists()
