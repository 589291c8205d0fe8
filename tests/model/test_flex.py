"""FlexAttention: its mask and its result on a CPU, where it only runs slowly and forward, and all of it on a CUDA device."""

from types import SimpleNamespace

import pytest
import torch

from daybreak.model import flex
from daybreak.model.attention import KERNELS, _near, plain
from daybreak.model.config import GPTConfig
from daybreak.model.init import build

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(("T", "S", "band"), [(1, 1, 1), (40, 40, 7), (40, 40, None), (40, 40, 90), (30, 200, 50), (300, 300, 128)])
def test_the_mask_is_the_reference_s(T, S, band):
    mask = flex.block_mask(T, S, band, CPU)
    queries, keys = torch.arange(T)[:, None], torch.arange(S)
    assert torch.equal(mask.mask_mod(torch.tensor(0), torch.tensor(0), queries, keys).expand(T, S), _near(CPU, T, S, band))


def test_the_tiles_outside_the_band_are_skipped():
    mask = flex.block_mask(2048, 2048, 256, CPU)
    tiles = mask.to_dense()[0, 0].bool()
    seen = _near(CPU, 2048, 2048, 256).view(16, 128, 16, 128).any(dim=3).any(dim=1)
    assert torch.equal(tiles, seen)
    assert int(tiles.sum()) == 16 * 3 - 3  # two tiles before each query's own, but for the first two


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("T", "S", "band"), [(256, 256, 37), (256, 256, None), (130, 200, 30), (64, 64, 64)])
def test_the_result_is_the_plain_one_s(T, S, band):
    from torch.nn.attention.flex_attention import flex_attention

    draw = torch.Generator().manual_seed(T)
    queries, keys, values = (torch.randn(2, 2, n, 16, generator=draw) for n in (T, S, S))
    out = flex_attention(queries, keys, values, block_mask=flex.block_mask(T, S, band, CPU))
    torch.testing.assert_close(out, plain(queries, keys, values, 0.0, band), rtol=1e-5, atol=1e-5)


def test_a_mask_is_made_once_for_all_layers():
    flex._kept.cache_clear()
    assert flex._kept(256, 256, 40, CPU) is flex._kept(256, 256, 40, CPU)
    assert flex._kept(256, 256, 41, CPU) is not flex._kept(256, 256, 40, CPU)


def test_it_serves_whole_windows_on_cuda_without_dropout(monkeypatch):
    def asked(T=2048, S=2048, D=64, dropout=0.0, cuda=True, dtype=torch.bfloat16):
        queries = SimpleNamespace(shape=(4, 12, T, D), is_cuda=cuda, dtype=dtype)
        return flex.serves(queries, SimpleNamespace(shape=(4, 12, S, D)), dropout)

    monkeypatch.setattr(flex, "COMPILER", True)
    assert asked()
    assert asked(D=80)
    assert not asked(cuda=False)
    assert not asked(dropout=0.1)
    assert not asked(T=1)
    assert not asked(T=4)
    assert not asked(T=100, S=100)
    assert not asked(D=8)
    assert not asked(dtype=torch.float64)
    monkeypatch.setattr(flex, "COMPILER", False)
    assert not asked()


@needs_cuda
@pytest.mark.parametrize(("T", "D", "band"), [(256, 64, 37), (512, 80, 256), (512, 128, 1)])
def test_on_cuda_it_is_the_plain_one_with_its_gradients(T, D, band):
    exact = [torch.randn(2, 3, T, D, device="cuda", dtype=torch.float64, requires_grad=True) for _ in range(3)]
    reference = plain(*exact, 0.0, band)
    weight = torch.randn_like(reference)
    wanted = [reference, *torch.autograd.grad((reference * weight).sum(), exact)]
    inputs = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    assert flex.serves(inputs[0], inputs[1], 0.0)
    out = KERNELS["auto"](*inputs, 0.0, band)
    came = [out, *torch.autograd.grad((out * weight.bfloat16()).sum(), inputs)]
    for ours, theirs in zip(came, wanted, strict=True):
        assert (ours.double() - theirs).norm() < 0.02 * theirs.norm()


@needs_cuda
def test_on_cuda_a_banded_model_is_the_plain_one():
    config = GPTConfig(
        vocab_size=50, context_length=256, n_layer=2, n_head=2, d_model=64, attention_pattern=("dense", "banded"), attention_band=40
    )
    tokens = torch.randint(50, (2, 256), device="cuda")
    with torch.no_grad():
        logits = build(config, 0, "cuda")(tokens)
        torch.testing.assert_close(logits, build(config, 0, "cuda", plain)(tokens), rtol=1e-2, atol=1e-2)
