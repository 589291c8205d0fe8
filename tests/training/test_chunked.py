"""The loss in chunks beside the plain one: equal losses, equal gradients for any upstream, and no logits of a whole batch in fp32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from worlds import in_worlds, single

from daybreak.data.batches import Batch
from daybreak.model.attention import plain
from daybreak.model.config import GPTConfig
from daybreak.model.gpt import GPT
from daybreak.model.init import build, initialize
from daybreak.training import chunked
from daybreak.training.chunked import chunked_cross_entropy, linear_cross_entropy
from daybreak.training.loop import accumulate
from daybreak.training.objectives import cross_entropy
from daybreak.training.parallel import across, recompute_blocks
from daybreak.training.precision import MixedPrecision

CPU = torch.device("cpu")
CONFIG = GPTConfig(vocab_size=67, context_length=8, n_layer=2, n_head=2, d_model=12, init_std=0.3)  # 128 padded rows
IDS = torch.randint(67, (6, 9), generator=torch.Generator().manual_seed(1))
PLAIN = Batch(IDS[:, :-1], IDS[:, 1:])
WEIGHTED = Batch(IDS[:, :-1], IDS[:, 1:], (IDS[:, 1:] % 3).float())  # a third of the tokens count nothing


def drawn(n=40, width=12, tokens=67, padded=128, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, width, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(padded, width, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(tokens, (n,), generator=generator), torch.randn(n, generator=generator, dtype=dtype)


def written_out(hidden, weight, targets, tokens, softcap=None):
    logits = F.linear(hidden, weight)[:, :tokens].to(torch.promote_types(hidden.dtype, torch.float32))
    return F.cross_entropy(logits if softcap is None else softcap * torch.tanh(logits / softcap), targets, reduction="none")


def answers(way, hidden, weight, upstream):
    losses = way()
    return losses.detach(), *torch.autograd.grad(losses, (hidden, weight), upstream.to(losses.dtype))


def close(one, other, rel):
    """To a share of the largest: a gradient's smallest entries are differences of large numbers."""
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= rel * float(b.abs().max())


@given(
    n=st.integers(1, 80),
    width=st.integers(1, 9),
    tokens=st.integers(1, 40),
    pads=st.integers(0, 30),
    chunk=st.integers(1, 90),
    softcap=st.sampled_from([None, 0.7, 15.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_any_shape_in_any_chunks_is_the_plain_loss(n, width, tokens, pads, chunk, softcap, seed):
    hidden, weight, targets, upstream = drawn(n, width, tokens, tokens + pads, torch.float64, seed)
    upstream[::3] = 0
    came = answers(lambda: linear_cross_entropy(hidden, weight, targets, tokens, chunk, softcap=softcap), hidden, weight, upstream)
    whole = answers(lambda: written_out(hidden, weight, targets, tokens, softcap), hidden, weight, upstream)
    for a, b in zip(came, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert not came[2][tokens:].any()


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_in_fp32_it_is_exact_to_rounding(chunk):
    hidden, weight, targets, upstream = drawn()
    came = answers(lambda: linear_cross_entropy(hidden, weight, targets, 67, chunk), hidden, weight, upstream)
    close(came, answers(lambda: written_out(hidden, weight, targets, 67), hidden, weight, upstream), 1e-6)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_gradient_is_that_of_the_losses(softcap):
    hidden, weight, targets, _ = drawn(10, 3, 5, 8, torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, 5, 4, softcap=softcap), (hidden, weight))


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_is_no_further_from_the_truth_than_the_plain_loss(dtype, softcap):
    hidden, weight, targets, upstream = drawn(100, 24, 67, 128)

    def low(way):
        with torch.autocast("cpu", dtype):
            return way()

    came = answers(lambda: low(lambda: linear_cross_entropy(hidden, weight, targets, 67, 30, softcap=softcap)), hidden, weight, upstream)
    whole = answers(lambda: low(lambda: written_out(hidden, weight, targets, 67, softcap)), hidden, weight, upstream)
    exact = answers(lambda: written_out(hidden.double(), weight.double(), targets, 67, softcap), hidden, weight, upstream)
    assert torch.equal(came[0], whole[0])
    for a, b, truth in zip(came, whole, exact, strict=True):
        assert float((a - truth).norm()) <= 1.2 * float((b - truth).norm())
    close(came, whole, 3 * torch.finfo(dtype).eps)


def test_what_the_model_is_sure_of_still_has_a_gradient_in_16_bits():
    hidden, weight = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[7.0], [0.0]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, torch.tensor([0]), 2)
    loss.sum().backward()
    assert float(weight.grad[0]) == pytest.approx(
        -1 / (1 + torch.tensor(7.0).exp().item()), rel=0.01
    )  # bf16 has nothing between 0.998 and 1


def test_losses_too_large_for_a_probability():
    hidden, weight = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[300.0], [0.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]), 2)
    loss.sum().backward()
    assert (loss.item(), hidden.grad.item(), weight.grad[:, 0].tolist()) == (300.0, 300.0, [1.0, -1.0])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_needs_no_gradient_gets_none(dtype):
    hidden, weight, targets, _ = drawn()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        of_hidden = torch.autograd.grad(linear_cross_entropy(hidden, weight.detach(), targets, 67).sum(), hidden)[0]
        of_weight = torch.autograd.grad(linear_cross_entropy(hidden.detach(), weight, targets, 67).sum(), weight)[0]
        both = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, 67).sum(), (hidden, weight))
        with torch.no_grad():
            assert not linear_cross_entropy(hidden, weight, targets, 67).requires_grad
    assert torch.equal(of_hidden, both[0])
    assert torch.equal(of_weight, both[1])


def test_a_graph_may_be_gone_through_twice():
    hidden, weight, targets, upstream = drawn()
    with torch.autocast("cpu", torch.bfloat16):
        losses = linear_cross_entropy(hidden, weight, targets, 67)
    first = torch.autograd.grad(losses, (hidden, weight), upstream, retain_graph=True)
    close(torch.autograd.grad(losses, (hidden, weight), upstream), first, 0.0)


def test_chunks_of_nothing_are_refused():
    with pytest.raises(ValueError, match="chunk: wanted at least 1 token, came 0"):
        chunked_cross_entropy(0)


# --- memory ------------------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation made, by dtype."""

    def __init__(self):
        super().__init__()
        self.elements = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements[leaf.dtype] = max(self.elements.get(leaf.dtype, 0), leaf.numel())
        return out


def largest(objective, precision):
    """At 240 tokens of a vocabulary of 640: a batch's logits are larger than all else."""
    model = build(GPTConfig(vocab_size=640, context_length=24, n_layer=1, n_head=1, d_model=8), 0, kernel=plain)
    ids = torch.randint(640, (10, 25))
    with Largest() as made:
        accumulate(model, [Batch(ids[:, :-1], ids[:, 1:])], objective, MixedPrecision(precision, CPU))
    return made.elements


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_of_a_whole_batch_never_exist_in_fp32(precision):
    assert largest(cross_entropy, precision)[torch.float32] == 240 * 640  # the measure sees what the plain loss makes
    assert largest(chunked_cross_entropy(30), precision)[torch.float32] == 30 * 640


def held(objective, precision):
    """The bytes that the head keeps between forward and backward."""
    model, sizes = build(CONFIG, 0), {}
    with (
        torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x, lambda x: x
        ),
        MixedPrecision(precision, CPU).autocast(),
    ):
        losses = objective(model, PLAIN)
    assert losses.shape == (6, 8)
    return sum(sizes.values())


def test_what_is_kept_for_the_backward_pass():
    assert held(cross_entropy, "bf16") - held(chunked_cross_entropy(8), "bf16") >= 48 * (4 * 67 - 2 * 128)
    assert held(cross_entropy, "fp32") - held(chunked_cross_entropy(8), "fp32") >= 48 * 4 * 67 - 4 * 48  # none of the logits


# --- in training -------------------------------------------------------------------------------------------------------------


def placed(world, layout, recompute=False, compiled=False, dtype=None):
    ways = across(layout, world, CPU, dtype)
    with torch.device("meta"):
        model = GPT(CONFIG, plain)
    if recompute:
        recompute_blocks(model)
    ways.place(model)
    model.to_empty(device=CPU)
    initialize(model, 7, ways.write)
    if compiled:
        for block in model.blocks:
            block.compile(backend="aot_eager")
    return model, ways


def gradients(world, layout, objective, batch=PLAIN, precision="fp32", recompute=False, compiled=False):
    """Loss and gradients of a step of two micro-batches for each process."""
    model, ways = placed(world, layout, recompute, compiled, torch.bfloat16 if precision == "bf16" else None)
    share = [None if part is None else part.chunk(world.size)[world.rank] for part in batch]
    parts = [Batch(*(None if part is None else part.chunk(2)[half] for part in share)) for half in (0, 1)]
    loss = accumulate(model, parts, objective, MixedPrecision(precision, CPU), across=ways)
    return [float(loss)] + [ways.whole(parameter.grad).numpy() for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler hides it too late
@pytest.mark.parametrize("batch", [PLAIN, WEIGHTED], ids=["plain", "weighted"])
@pytest.mark.parametrize(("recompute", "compiled"), [(False, False), (True, False), (False, True)])
def test_a_step_has_the_same_gradients(batch, recompute, compiled):
    expected = single(gradients, "single", cross_entropy, batch)
    came = single(gradients, "single", chunked_cross_entropy(5), batch, "fp32", recompute, compiled)
    for a, b in zip(came, expected, strict=True):
        close([torch.as_tensor(a)], [torch.as_tensor(b)], 2e-6)


@pytest.mark.parametrize(("layout", "size"), [("ddp", 2), ("fsdp", 2), ("fsdp", 3)])
@pytest.mark.parametrize(("precision", "rel"), [("fp32", 5e-6), ("bf16", 0.03)])
def test_a_step_divided_among_processes_has_the_same_gradients(layout, size, precision, rel):
    expected = single(gradients, "single", cross_entropy, WEIGHTED, precision)
    for came in in_worlds(size, gradients, layout, chunked_cross_entropy(5), WEIGHTED, precision):
        for a, b in zip(came, expected, strict=True):
            close([torch.as_tensor(a)], [torch.as_tensor(b)], rel)


def test_what_is_compiled_is_the_same(monkeypatch):
    """As the compiler rewrites it, without in-place operations, but in torch's own kernels: making others takes too long for a test."""
    monkeypatch.setattr(chunked, "_compiled", lambda: torch.compile(chunked.losses_from_logits, dynamic=False, backend="aot_eager"))
    hidden, weight, targets, upstream = drawn()  # 40 tokens: pieces of 32 and 8
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            compiled = answers(lambda: linear_cross_entropy(hidden, weight, targets, 67, 64, compiled=True), hidden, weight, upstream)
            eager = answers(lambda: linear_cross_entropy(hidden, weight, targets, 67, 64), hidden, weight, upstream)
        close(compiled, eager, 0.01 if autocast else 1e-6)
