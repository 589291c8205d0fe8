"""From a folder to a model and back: every layout of the hub's folders, our own form, number formats, and refusals by name."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import tiny_settings

from daybreak.config import ConfigError
from daybreak.data.tokenizer import load_tokenizer, train_bpe, train_chars
from daybreak.files import FileProblem
from daybreak.loading import load, write_model
from daybreak.model import hf
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.story import run

transformers = pytest.importorskip("transformers")

SHAPE = {"vocab_size": 257, "n_positions": 24, "n_embd": 24, "n_layer": 2, "n_head": 3, "bos_token_id": 256, "eos_token_id": 256}
BANDED = GPTConfig(
    vocab_size=257,
    context_length=16,
    n_layer=3,
    n_head=2,
    d_model=16,
    init_std=0.3,
    attention_pattern=("dense", "banded"),
    attention_band=4,
)
TOKENS = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A GPT-2 as `transformers` writes it, with a tokenizer."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPE, initializer_range=0.3)).eval()
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder)
    load_tokenizer("bytes").save(folder)
    return folder


@pytest.fixture
def copy(theirs, tmp_path):
    """The same, to be spoiled."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in theirs.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def logits(folder):
    with torch.no_grad():
        return load(folder, device="cpu")(TOKENS)


def there(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    with torch.no_grad():
        return model, model(TOKENS).logits


# --- There and back ---


def test_theirs_imported_and_exported_has_their_tensors_bit_for_bit(theirs, tmp_path):
    model = load(theirs, device="cpu")
    write_model(tmp_path / "once", model.gpt, model.tokenizer)
    first, original = load_file(tmp_path / "once" / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert first.keys() == original.keys() - {"lm_head.weight"}
    assert all(torch.equal(first[name], original[name]) for name in first)
    opened, expected = there(theirs)
    again, came = there(tmp_path / "once")
    assert torch.equal(came, expected)
    assert again.lm_head.weight is again.transformer.wte.weight
    torch.testing.assert_close(logits(theirs), expected, rtol=0, atol=1e-4)
    for name in SHAPE:
        assert getattr(again.config, name) == getattr(opened.config, name)


def test_export_import_export_is_the_same_files(run_dir, tmp_path):
    for source, name in ((run_dir, "once"), (tmp_path / "once", "twice")):
        model = load(source, device="cpu")
        write_model(tmp_path / name, model.gpt, model.tokenizer, form="hf")
    once, twice = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("once", "twice"))
    assert once == twice
    assert len(once) == 5
    assert len({path.stat().st_mode for path in (tmp_path / "once").iterdir()}) == 1


# --- Every layout of the hub ---


def test_weights_in_many_files(copy):
    expected = logits(copy)
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    places = {name: f"model-{number % 3 + 1:05d}-of-00003.safetensors" for number, name in enumerate(sorted(state))}
    for file in set(places.values()):
        save_file({name: state[name] for name in state if places[name] == file}, copy / file)
    index = {"metadata": {}, "weight_map": places}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logits(copy), expected)

    (copy / "model-00002-of-00003.safetensors").rename(copy / "elsewhere")
    with pytest.raises(FileProblem, match=r"model-00002-of-00003\.safetensors: wanted a part .* found nothing there"):
        load(copy, device="cpu")
    (copy / "elsewhere").rename(copy / "model-00002-of-00003.safetensors")
    save_file({"else": torch.zeros(1)}, copy / "model-00001-of-00003.safetensors")
    with pytest.raises(FileProblem, match=r"index\.json: wanted .* in model-00001-of-00003\.safetensors, it is not there"):
        load(copy, device="cpu")
    for broken in ({}, {"weight_map": {"a": "../secret"}}, {"weight_map": {"a": 1}}, []):
        (copy / "model.safetensors.index.json").write_text(json.dumps(broken))
        with pytest.raises(FileProblem, match=r"index\.json: wanted a weight_map"):
            load(copy, device="cpu")


def test_what_transformers_itself_shards_opens(theirs, tmp_path):
    model, expected = there(theirs)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    load_tokenizer("bytes").save(tmp_path / "sharded")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    torch.testing.assert_close(logits(tmp_path / "sharded"), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_the_size(theirs, tmp_path, dtype):
    model, _ = there(theirs)
    model.to(dtype).save_pretrained(tmp_path / "half")
    load_tokenizer("bytes").save(tmp_path / "half")
    opened = load(tmp_path / "half", device="cpu")
    assert {parameter.dtype for parameter in opened.gpt.parameters()} == {torch.float32}
    _, expected = there(tmp_path / "half")
    torch.testing.assert_close(logits(tmp_path / "half"), expected, rtol=0, atol=1e-4)
    write_model(tmp_path / "back", opened.gpt, opened.tokenizer, dtype=dtype)
    back, original = (load_file(tmp_path / name / "model.safetensors") for name in ("back", "half"))
    assert all(torch.equal(back[name], original[name]) and back[name].dtype == dtype for name in back)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", local_files_only=True, dtype="auto").dtype == dtype


def test_the_two_files_of_older_tokenizers(copy):
    expected = load(copy, device="cpu")
    document = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.json").write_text(json.dumps(document["model"]["vocab"] | {"<|endoftext|>": 256}))
    (copy / "merges.txt").write_text("#version: 0.2\n")
    assert load(copy, device="cpu").tokenizer.fingerprint == expected.tokenizer.fingerprint


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"])
def test_a_pickle_is_refused_and_the_way_out_named(copy, name):
    (copy / "model.safetensors").rename(copy / name)
    with pytest.raises(
        FileProblem, match=rf"found {name}, a pickle, .* can run code; .*from_pretrained\('.*copy'\)\.save_pretrained"
    ) as told:
        load(copy, device="cpu")
    assert "\n" not in str(told.value)


def test_weights_of_other_kinds_and_none_are_named(copy):
    (copy / "model.safetensors").rename(copy / "tf_model.h5")
    with pytest.raises(FileProblem, match=r"found tf_model\.h5, which is not read here; get the model as safetensors"):
        load(copy, device="cpu")
    (copy / "tf_model.h5").unlink()
    with pytest.raises(FileProblem, match=r"model\.safetensors: wanted the model's weights, found nothing there"):
        load(copy, device="cpu")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(copy):
    train_bpe(["one and one and one"], 260).save(copy)
    with pytest.raises(FileProblem, match="wanted a tokenizer of at most the model's 257 ids, came 260"):
        load(copy, device="cpu")


# --- Tokenizers ---


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A written model's folder, its tokenizer here, and the same as `transformers` opens it."""
    tokenizer = train_bpe(["the sun rises at dawn, the sun, a small café <|endoftext|>"] * 3, 300)
    folder = tmp_path_factory.mktemp("learned") / "model"
    write_model(folder, build(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=8, n_layer=1, n_head=1, d_model=8), 0), tokenizer)
    return tokenizer, transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True), folder


@given(st.text() | st.text(alphabet="the sun<|endoftext|>é ", max_size=40))
def test_any_text_has_the_same_ids_there(learned, text):
    ours, opened, _ = learned
    if "<|endoftext|>" not in text:  # there the string is the token, here it is text
        assert opened(text)["input_ids"] == ours.encode(text).tolist()
        assert opened.decode(ours.encode(text)) == ours.decode(ours.encode(text))


def test_the_end_of_text_is_the_same_token_there(learned):
    ours, opened, folder = learned
    assert opened("<|endoftext|>")["input_ids"] == [ours.eot]
    assert (opened.eos_token, opened.eos_token_id, len(opened)) == ("<|endoftext|>", ours.eot, ours.vocab_size)
    assert opened("the<|endoftext|>sun")["input_ids"] == [*ours.encode("the"), ours.eot, *ours.encode("sun")]
    assert load(folder, device="cpu").tokenizer.fingerprint == ours.fingerprint


def test_characters_travel_too(tmp_path):
    tokenizer = train_chars(["a sun é"])
    model = build(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=8, n_layer=1, n_head=1, d_model=8), 0)
    write_model(tmp_path / "model", model, tokenizer)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    assert opened("sun é a")["input_ids"] == tokenizer.encode("sun é a").tolist()


# --- Our own form ---


def test_a_banded_model_is_written_in_our_own_form(tmp_path):
    model = build(BANDED, 0).eval()
    with pytest.raises(hf.Unrepresentable, match=r"of the layers 0 to 2, 1 look back only 4 tokens"):
        write_model(tmp_path / "hf", model, load_tokenizer("bytes"), form="hf")
    assert list(tmp_path.iterdir()) == []
    write_model(tmp_path / "model", model, load_tokenizer("bytes"))
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    assert described["model_type"] == "daybreak"
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == model.state_dict().keys()
    opened = load(tmp_path / "model", device="cpu")
    assert opened.config == BANDED
    with torch.no_grad():
        assert torch.equal(opened(TOKENS), model(TOKENS))


def test_a_run_of_a_banded_model_ends_in_one_that_opens(data_dir, tmp_path):
    banded = ("model.attention_pattern=dense,banded", "model.attention_band=4", "train.train_tokens=128")
    assert run(tiny_settings(data_dir, *banded), tmp_path / "run")["event"] == "end"
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["model_type"] == "daybreak"
    model = load(tmp_path / "run", device="cpu")
    assert model.config.band(1) == 4
    checkpoint = load_file(next((tmp_path / "run" / "checkpoints").iterdir()) / "model.safetensors")
    assert all(torch.equal(checkpoint[name], tensor) for name, tensor in model.gpt.state_dict().items())
    assert isinstance("".join(model.write("The", max_tokens=4, seed=0)), str)


def test_a_dense_model_has_both_forms(tmp_path):
    dense = dataclasses.replace(BANDED, attention_pattern=("dense",))
    model = build(dense, 0).eval()
    for form in ("hf", "daybreak"):
        write_model(tmp_path / form, model, load_tokenizer("bytes"), form=form)
        assert load(tmp_path / form, device="cpu").config == dense
        with torch.no_grad():
            assert torch.equal(logits(tmp_path / form), model(TOKENS))


def test_our_own_form_in_half_the_size_is_computed_in_fp32(tmp_path):
    model = build(BANDED, 0)
    write_model(tmp_path / "model", model, load_tokenizer("bytes"), dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.bfloat16}
    opened = load(tmp_path / "model", device="cpu").gpt.state_dict()
    assert all(torch.equal(opened[name], tensor.bfloat16().float()) for name, tensor in model.state_dict().items())


def test_a_reshaped_model_keeps_its_name_and_is_not_written_as_what_it_is_not(tmp_path):
    def shorter(gpt):
        gpt.blocks = gpt.blocks[:-1]
        return gpt

    model = shorter(build(BANDED, 0))
    write_model(tmp_path / "model", model, load_tokenizer("bytes"), ["shorter"])
    opened = load(tmp_path / "model", device="cpu", reshapings={"shorter": shorter})
    assert opened.reshapings == ("shorter",)
    write_model(tmp_path / "again", opened.gpt, opened.tokenizer, opened.reshapings)
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "model" / "config.json").read_bytes()
    for asked in ({"form": "hf"}, {"dtype": torch.float16}):
        with pytest.raises(hf.Unrepresentable, match="reshaped by shorter"):
            write_model(tmp_path / "no", opened.gpt, opened.tokenizer, opened.reshapings, **asked)
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limits")
def test_a_disk_without_room_is_told_and_leaves_nothing_half_written(run_dir, tmp_path):
    import resource

    model, limits = load(run_dir, device="cpu"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*model\.safetensors"):
            write_model(tmp_path / "model", model.gpt, model.tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["auto", "bf16", "fp16w", "int8", "int4"])
def test_a_run_is_opened_in_a_number_format_and_writes(run_dir, dtype):
    plain, model = load(run_dir, device="cpu"), load(run_dir, device="cpu", dtype=dtype)
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        far = float((model(tokens) - plain(tokens)).norm() / plain(tokens).norm())
    assert far < {"auto": 1e-3, "fp16w": 1e-3, "bf16": 0.05, "int8": 0.1, "int4": 0.5}[dtype]
    assert "".join(model.write("The sun", max_tokens=8, seed=3)) == "".join(model.write("The sun", max_tokens=8, seed=3))


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_the_compiler_of_torch_is_not_imported_to_open_a_model_and_write(run_dir, dtype):
    code = (
        "import sys; from daybreak.loading import load; "
        f"text = ''.join(load({str(run_dir)!r}, device='cpu', dtype={dtype!r}).write('e', max_tokens=3)); "
        "print(sorted({'torch._dynamo', 'torch._inductor', 'sympy', 'triton'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_number_format_is_named(run_dir):
    with pytest.raises(ConfigError, match="dtype: wanted one of auto, fp32, bf16, fp16w, int8, int4, came int6"):
        load(run_dir, device="cpu", dtype="int6")


def test_a_text_ends_before_a_stop_string_and_the_seed_decides(run_dir):
    model = load(run_dir, device="cpu")
    whole = "".join(model.write("The", max_tokens=60, seed=1))
    middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
    assert "".join(model.write("The", max_tokens=60, seed=1, stop=[middle])) == whole[: whole.index(middle)]
    assert "".join(model.write("The", max_tokens=60, seed=2)) != whole
    biased = "".join(model.write("The", max_tokens=60, seed=1, repetition_penalty=5.0, min_p=0.02, typical_p=0.9))
    assert biased != whole
