"""Our own kernels: right on every kind of processor, a block in one call the same as its parts, and left out without a compiler."""

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from daybreak import files
from daybreak.inference import trials
from daybreak.inference.engine import Engine
from daybreak.inference.formats import FORMATS, in_format
from daybreak.inference.native import blocks, library, panels
from daybreak.inference.native.blocks import NativeBlock
from daybreak.inference.native.library import Unavailable
from daybreak.inference.paged import PagedCache
from daybreak.inference.pages import Pages, Row
from daybreak.inference.requests import Limits
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.model.kv_cache import KVCache

NATIVE = [name for name, form in FORMATS.items() if "native" in form.quick]
ARCHITECTURES = {
    "gpt2": {},
    "no bias": {"bias": False},
    "banded": {"attention_pattern": ("dense", "banded"), "attention_band": 5},
    "modern": {
        "norm": "rmsnorm",
        "activation": "relu2",
        "position": "rotary",
        "qk_norm": True,
        "value_residual": True,
        "embedding_shortcut": True,
        "bias": False,
    },
    "grouped": {"n_kv_head": 2, "activation": "swiglu", "norm": "rmsnorm-no-gain", "position": "rotary"},
}
KEPT = [(torch.float32, 2e-5), (torch.float16, 1e-4)]
"""What a cache is kept in, and how far two ways may be apart then: a number on the edge between two in fp16 may become either."""
SHAPE = {"vocab_size": 300, "context_length": 160, "n_layer": 3, "n_head": 4, "d_model": 128, "init_std": 0.1}
CUTS = [0, 1, 3, 20, 21, 22, 100, 101, 107, 110, 112, 140]  # one token, a few, and many together; a page is 16


def kernels():
    try:
        return library.library()
    except Unavailable as error:
        pytest.skip(str(error))


def flags():
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags")[1].split("\n")[0].split())
    except (OSError, IndexError):
        return set()


def native(name, outputs, inputs):
    return FORMATS[name].quick["native"]


def model_of(architecture, seed=1):
    config = GPTConfig(**SHAPE, **ARCHITECTURES[architecture])
    gpt = build(config, seed).eval()
    for number, parameter in enumerate(gpt.parameters()):
        if parameter.dim() == 1:  # gains, biases and shares that are not what they are at the beginning
            with torch.no_grad():
                parameter.copy_(0.6 + 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return gpt


def read_in_pieces(gpt, tokens, kept=torch.float32):
    cache = KVCache(gpt.config, len(tokens), dtype=kept)
    with torch.inference_mode():
        return torch.cat([gpt(tokens[:, start:stop], cache) for start, stop in pairwise(CUTS)], dim=1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("kept", "error"), KEPT)
def test_a_block_in_one_call_is_its_parts(architecture, batch, kept, error, monkeypatch):
    kernels()
    gpt = in_format(model_of(architecture), "fp16w", native)
    assert all(isinstance(block, NativeBlock) for block in gpt.blocks)
    tokens = torch.randint(300, (batch, CUTS[-1]), generator=torch.Generator().manual_seed(0))
    in_one = read_in_pieces(gpt, tokens, kept)
    monkeypatch.setattr(blocks, "MOST", 0)
    in_parts = read_in_pieces(gpt, tokens, kept)
    assert not torch.equal(in_one, in_parts)  # they are two ways
    torch.testing.assert_close(in_one, in_parts, rtol=0, atol=error * float(in_parts.abs().max()))


@pytest.mark.parametrize("name", NATIVE)
def test_formats_agree_on_the_likeliest_token(name, monkeypatch):
    kernels()
    gpt, tokens = model_of("modern"), torch.randint(300, (1, CUTS[-1]), generator=torch.Generator().manual_seed(0))
    in_one = read_in_pieces(in_format(gpt, name, native), tokens)
    plain = read_in_pieces(in_format(gpt, name), tokens)
    # A number on the edge between two integers may be rounded either way, which is a small difference of a few.
    assert float((in_one - plain).norm() / plain.norm()) < 0.02
    assert float((in_one.argmax(-1) == plain.argmax(-1)).float().mean()) > 0.97


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("kept", "error"), KEPT)
def test_texts_in_pages_are_read_as_alone(architecture, kept, error):
    kernels()
    gpt = in_format(model_of(architecture), "fp16w", native)
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(300, (length,), generator=draw) for length in (40, 17, 33, 90)]
    pages = Pages(gpt.config, 400, dtype=kept)
    rows = [Row() for _ in texts]
    for length in (3, 1, 2, 30, 1):  # their pages come to lie between each other's
        for row in rows:
            pages.extend(row, row.length + length)
            row.length += length
    for row in rows:
        row.length = 0
    heard = [[] for _ in texts]
    with torch.inference_mode():
        for counts in ((1, 5, 2, 40), (9, 1, 1, 1), (10, 11, 30, 49), (20, 0, 0, 0)):
            parts = [(n, count) for n, count in enumerate(counts) if count]
            for n, count in parts:
                assert pages.extend(rows[n], rows[n].length + count)
            tokens = torch.cat([texts[n][rows[n].length : rows[n].length + count] for n, count in parts])
            logits = gpt(tokens[None], PagedCache(pages, [(rows[n], count) for n, count in parts]))[0]
            for (n, _), own in zip(parts, logits.split([count for _, count in parts]), strict=True):
                heard[n].append(own)
        for text, told in zip(texts, heard, strict=True):
            alone = gpt(text[None], KVCache(gpt.config, dtype=kept))[0]
            torch.testing.assert_close(torch.cat(told), alone, rtol=0, atol=error * float(alone.abs().max()))


@pytest.mark.parametrize("name", NATIVE)
def test_keys_and_values_take_half_where_activations_are_rounded_more_coarsely(name):
    kernels()
    gpt = model_of("gpt2")
    assert (gpt.cache_dtype, in_format(gpt, name).cache_dtype) == (torch.float32, torch.float32)  # torch would widen all of them each time
    changed = in_format(gpt, name, native)
    assert changed.cache_dtype == (torch.float32 if name == "fp16w" else torch.float16)
    tokens = torch.randint(300, (1, CUTS[-1]), generator=torch.Generator().manual_seed(0))
    wide, narrow = read_in_pieces(changed, tokens), read_in_pieces(changed, tokens, changed.cache_dtype)
    exact = read_in_pieces(gpt, tokens)
    off, narrow_off = (float((each - exact).norm() / exact.norm()) for each in (wide, narrow))
    assert narrow_off < 1.1 * off  # what rounding them adds is not to be seen beside what the format does

    engine = Engine(changed, lambda token: b"", 299, Limits(cache_tokens=400), speculator=None)
    assert engine.pages.keys.dtype == changed.cache_dtype


def test_what_a_vector_does_not_divide_goes_part_by_part():
    lanes = kernels().lanes()
    gpt = build(GPTConfig(vocab_size=64, context_length=8, n_layer=1, n_head=8, d_model=8 * lanes // 2), 1).eval()  # half a vector a head
    changed = in_format(gpt, "int8", native)
    assert not isinstance(changed.blocks[0], NativeBlock)
    assert changed(torch.tensor([[1, 2]]), KVCache(gpt.config)).isfinite().all()


def test_caches_that_cannot_be_read_in_place_and_none_at_all_go_part_by_part():
    kernels()
    gpt, tokens = in_format(model_of("modern"), "fp16w", native), torch.arange(20)[None]
    with torch.inference_mode():
        in_one = gpt(tokens, KVCache(gpt.config))
        torch.testing.assert_close(gpt(tokens), in_one, rtol=0, atol=1e-4)
        torch.testing.assert_close(gpt(tokens, KVCache(gpt.config, dtype=torch.bfloat16)), in_one, rtol=0, atol=0.3)


def test_a_full_cache_and_another_batch_are_refused():
    kernels()
    gpt = in_format(model_of("gpt2"), "fp16w", native)
    with torch.inference_mode(), pytest.raises(ValueError, match="wanted at most 4 tokens, came 5"):
        gpt(torch.arange(5)[None], KVCache(gpt.config, capacity=4))
    with torch.inference_mode(), pytest.raises(ValueError, match="wanted a batch of 2, for which it was made, came 1"):
        gpt(torch.arange(5)[None], KVCache(gpt.config, 2))


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_no_number_stays_none(name, broken):
    kernels()
    layer = FORMATS[name].quick["native"](torch.eye(64), None)
    x = torch.zeros(14, 64)
    x[1, 3] = broken
    y = layer(x)
    assert not y[1].isfinite().all()
    assert (y[[0, *range(2, 14)]] == 0).all()


@pytest.mark.parametrize("name", NATIVE)
def test_more_threads_give_the_same(name):
    kernels()
    weight, x = torch.randn(3000, 256, generator=torch.Generator().manual_seed(0)), torch.randn(40, 256)
    layer = FORMATS[name].quick["native"](weight, None)
    one = layer(x)
    torch.set_num_threads(3)
    try:
        assert torch.equal(layer(x), one)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", NATIVE)
def test_no_rows_give_none(name):
    kernels()
    assert FORMATS[name].quick["native"](torch.randn(64, 32), None)(torch.zeros(1, 0, 32)).shape == (1, 0, 64)


def test_what_is_no_row_of_the_layer_is_refused_before_memory_is_read():
    kernels()
    layer = FORMATS["int8"].quick["native"](torch.randn(64, 32), None)
    with pytest.raises(ValueError, match=r"wanted \(..., 32\) on the CPU, came \(2, 16\)"):
        layer(torch.zeros(2, 16))
    with pytest.raises(ValueError, match="on meta"):
        layer(torch.zeros(2, 32, device="meta"))
    double = layer(torch.ones(2, 64, dtype=torch.float64)[:, ::2])  # not in one piece, and of another type
    torch.testing.assert_close(double, layer(torch.ones(2, 32)))


PROCESSORS = {  # what each of the branches of native.h is for
    "x86-64": set(),
    "haswell": {"avx2", "f16c", "fma", "bmi2"},
    "skylake-avx512": {"avx512bw", "avx512vl", "avx512dq", "avx512cd"},
    "cascadelake": {"avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx512_vnni"},
    "sapphirerapids": {"avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"},
    "alderlake": {"avx2", "f16c", "avx_vnni", "gfni", "vaes", "serialize", "movdiri"},
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_branch_is_right(processor, tmp_path, monkeypatch):
    if not PROCESSORS[processor] <= flags() or "lm" not in flags():
        pytest.skip(f"this processor cannot run what is compiled for {processor}")
    kernels()
    path = tmp_path / "native.so"
    try:
        path.write_bytes(library.compiled([shutil.which("cc")], (f"-march={processor}",)))
    except Unavailable as error:
        pytest.skip(f"this compiler does not know it: {error}")
    found = library.loaded(path)
    for module in (panels, blocks):
        monkeypatch.setattr(module, "library", lambda: found)
    draw = torch.Generator().manual_seed(0)
    for outputs, inputs in ((7, 64), (100, 96), (200, 32)):
        weight, bias, x = (torch.randn(*shape, generator=draw) for shape in ((outputs, inputs), (outputs,), (40, inputs)))
        for name in NATIVE:
            layer, plain = FORMATS[name].quick["native"](weight, bias), FORMATS[name].plain(weight, bias)(x)
            for count in (1, 2, 5, 13, 16, 17, 40):
                assert float((layer(x[:count]) - plain[:count]).norm() / plain[:count].norm()) < 1e-5, (name, count)
    for architecture in ARCHITECTURES:
        gpt, tokens = in_format(model_of(architecture), "fp16w", native), torch.arange(CUTS[-1])[None]
        assert isinstance(gpt.blocks[0], NativeBlock)
        for kept, error in KEPT:
            in_one = read_in_pieces(gpt, tokens, kept)
            with monkeypatch.context() as patch:
                patch.setattr(blocks, "MOST", 0)
                in_parts = read_in_pieces(gpt, tokens, kept)
            torch.testing.assert_close(in_one, in_parts, rtol=0, atol=error * float(in_parts.abs().max()))


def test_without_a_compiler_torch_does_the_work(monkeypatch, tmp_path):
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(Unavailable, match="no C compiler: no-such-compiler is not on the path; install gcc or clang, or name one in \\$CC"):
        library.library()
    trials.measure.cache_clear()
    try:
        told = {way: milliseconds for way, milliseconds, _ in trials.measure("int8", 64, 64)}
        assert told["native"] == float("inf")
        assert trials.quickest("int8", 64, 64) is not FORMATS["int8"].quick["native"]
    finally:
        trials.measure.cache_clear()


def test_a_compiler_may_be_a_command_of_several_words(monkeypatch, tmp_path):
    kernels()
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "cc 'without an end")
    with pytest.raises(Unavailable, match=r"\$CC: cc 'without an end is no command \(No closing quotation\)"):
        library.library()
    monkeypatch.setenv("CC", "env SOMETHING='of its own' cc")
    assert library.library().lanes() > 0


def test_they_can_be_left_out(monkeypatch):
    monkeypatch.setenv("DAYBREAK_NATIVE", "0")
    with pytest.raises(Unavailable, match="DAYBREAK_NATIVE=0"):
        library.library()


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'error: no room for vectors' >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(Unavailable, match="error: no room for vectors"):
        library.library()
    assert list(tmp_path.rglob("*.so")) == []


def test_they_are_compiled_once_and_again_where_a_file_is_damaged(monkeypatch, tmp_path):
    kernels()
    (kept,) = (files.cache_folder() / "native").glob("*.so")
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path))
    library.library()
    (path,) = (tmp_path / "native").glob("*.so")
    assert path.name == kept.name
    torn = path.read_bytes()[:5000]
    script = "from daybreak.inference.native.library import library; print(library().lanes())"

    def opened(**environment):
        told = {"DAYBREAK_CACHE": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin", **environment}
        return subprocess.run([sys.executable, "-c", script], env=told, capture_output=True, text=True, check=False)

    assert opened(CC="no-such-compiler").stdout.strip() == str(kernels().lanes())  # it need not be compiled any more
    path.unlink()
    path.write_bytes(torn)
    assert opened().stdout.strip() == str(kernels().lanes())
