"""Every setting of the model at once, as training has it: divided, computed again, compiled, in 16 bits, in chunks, stopped and resumed."""

import dataclasses
import hashlib
import signal

import numpy as np
import pytest
import torch
from model.test_combinations import ALL, alive, ids
from safetensors.torch import load_file
from tiny import tiny_settings
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from worlds import in_worlds, single

from daybreak.data.batches import Batch
from daybreak.loading import load
from daybreak.model.attention import plain
from daybreak.model.gpt import GPT
from daybreak.model.init import initialize
from daybreak.story import events, run
from daybreak.training.chunked import chunked_cross_entropy
from daybreak.training.loop import accumulate
from daybreak.training.objectives import cross_entropy
from daybreak.training.parallel import across, recompute_blocks
from daybreak.training.precision import MixedPrecision

CPU = torch.device("cpu")
BATCH = Batch(ids(6, 12), ids(6, 12, seed=1))


def gradients(world, layout, objective=cross_entropy, recompute=False, compiled=False, precision="fp32"):
    """The initial weights, and the loss and gradients of a step of two micro-batches for each process."""
    ways = across(layout, world, CPU, torch.bfloat16 if precision == "bf16" else None)
    with torch.device("meta"):
        model = GPT(ALL, plain)
    if recompute:
        recompute_blocks(model)
    ways.place(model)
    model.to_empty(device=CPU)
    initialize(model, 7, ways.write)
    digest = hashlib.sha256(b"".join(ways.whole(parameter.detach()).numpy().tobytes() for parameter in model.parameters())).hexdigest()
    if compiled:
        for block in model.blocks:
            block.compile(backend="aot_eager")
    share = [None if part is None else part.chunk(world.size)[world.rank] for part in BATCH]
    parts = [Batch(*(None if part is None else part.chunk(2)[half] for part in share)) for half in (0, 1)]
    loss = accumulate(model, parts, objective, MixedPrecision(precision, CPU), across=ways)
    return digest, [float(loss)] + [ways.whole(parameter.grad).numpy() for parameter in model.parameters()]


def close(came, expected, rel):
    assert came[0] == expected[0]
    for a, b in zip(came[1], expected[1], strict=True):
        assert np.abs(a - b).max() <= rel * np.abs(b).max()


@pytest.fixture(scope="module")
def alone():
    return single(gradients, "single")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("layout", "size"), [("ddp", 2), ("fsdp", 2), ("fsdp", 3)])
def test_divided_among_processes_it_begins_and_learns_the_same(alone, layout, size, recompute):
    for came in in_worlds(size, gradients, layout, cross_entropy, recompute):
        close(came, alone, 2e-5)


def test_divided_in_16_bits_as_far_as_these_go():
    close(
        in_worlds(2, gradients, "fsdp", cross_entropy, False, False, "bf16")[0],
        single(gradients, "single", cross_entropy, False, False, "bf16"),
        0.05,
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler hides it too late
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    "changes",
    [(cross_entropy, True), (cross_entropy, False, True), (cross_entropy, True, True), (chunked_cross_entropy(5),)],
    ids=["recompute", "compile", "recompute and compile", "chunks"],
)
def test_no_way_of_computing_changes_the_gradients(alone, changes):
    torch.compiler.reset()
    close(single(gradients, "single", *changes), alone, 2e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_deep_models_are_not_compiled_layer_by_layer():
    """torch gives up on a function that it has compiled eight times, so blocks of a kind must share one graph."""
    torch.compiler.reset()
    model = alive(dataclasses.replace(ALL, n_layer=20))
    counter = CompileCounterWithBackend("aot_eager")
    tokens, plainly = ids(2, 12), model(ids(2, 12))
    for block in model.blocks:
        block.compile(backend=counter, fullgraph=True)
    torch.testing.assert_close(model(tokens), plainly, rtol=1e-4, atol=1e-4)
    assert counter.frame_count <= 4  # the first, which leaves its values, and one of each band


# --- a run -------------------------------------------------------------------------------------------------------------------

EDITS = [
    *(f"model.{name}={str(value).lower()}" for name, value in [("n_kv_head", 1), ("position", "rotary"), ("qk_norm", True)]),
    *("model.value_residual=true", "model.activation=relu2", "model.norm=rmsnorm", "model.bias=false", "model.embedding_norm=true"),
    *("model.embedding_shortcut=true", "model.tied_head=false", "model.logit_softcap=15", "model.residual_scaling=zero"),
]


def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits_and_opens(data_dir, tmp_path):
    settings = tiny_settings(data_dir, *EDITS, "model.dropout=0.1")
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    run(settings, straight)
    for event in events(settings, stopped):
        if event["event"] == "step" and event["step"] == 2:
            signal.raise_signal(signal.SIGTERM)
    run(settings, stopped)
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (straight, stopped))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "head.weight" in one
    model = load(straight)
    assert model.config == dataclasses.replace(settings.model, vocab_size=257)
    assert len("".join(model.write("The sun", max_tokens=4, seed=0, temperature=1.0))) >= 0
    tokens = torch.arange(8)[None]
    assert F.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:]).isfinite()
