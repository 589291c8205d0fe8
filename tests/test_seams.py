"""The seams: what others want to attach attaches from outside in a few lines, and nothing inside knows of it."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import daybreak as db
from daybreak.data.batches import Batch
from daybreak.data.tokenizer import load_tokenizer
from daybreak.files import FileProblem
from daybreak.loading import load, write_model
from daybreak.model.init import build
from daybreak.training.loop import accumulate, train
from daybreak.training.objectives import cross_entropy
from daybreak.training.precision import MixedPrecision
from daybreak.training.schedules import warmup_cosine

CONFIG = db.GPTConfig(vocab_size=257, context_length=16, n_layer=4, n_head=2, d_model=16, init_std=0.3)
FP32 = MixedPrecision("fp32", torch.device("cpu"))
IDS = torch.randint(257, (64, 17), generator=torch.Generator().manual_seed(0))


class Steps:
    """Sixteen sequences a step, in micro-batches of `size`."""

    def __init__(self, size=16):
        self.size = size

    def __getitem__(self, step):
        rows = IDS.roll(-16 * step, 0)[:16]
        return [Batch(part[:, :-1], part[:, 1:]) for part in rows.split(self.size)]

    def tokens_after(self, step):
        return 256 * (step + 1)


@pytest.fixture
def model():
    return build(CONFIG, 0)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.0)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# --- the three steps of forward ----------------------------------------------------------------------------------------------


def logits_after_every_block(model, tokens):
    """The logit lens (nostalgebraist, 2020): (layers + 1) of (B, T, V)."""
    x, shared = model.embed(tokens)
    seen = [model.unembed(x)]
    for block in model.blocks:
        x = block(x, shared)
        seen.append(model.unembed(x))
    return seen


def test_a_lens_reads_the_logits_after_every_block(model):
    tokens = IDS[:2, :16]
    seen = logits_after_every_block(model, tokens)
    assert len(seen) == 5
    assert torch.equal(seen[-1], model(tokens))
    assert not torch.allclose(seen[-2], seen[-1], atol=1e-2)


# --- predictor ---------------------------------------------------------------------------------------------------------------


class LeavesEarly:
    """A predictor that stops at block `deepest`, or before where the likeliest token is likely enough (Schuster et al., "CALM", 2022)."""

    def __init__(self, model, confidence, deepest=4):
        self.model, self.confidence, self.deepest, self.depths = model, confidence, deepest, []

    def __call__(self, tokens, kv_cache):
        x, shared = self.model.embed(tokens, kv_cache)
        self.depths.append(0)
        for block in self.model.blocks[: self.deepest]:
            x = block(x, shared)
            logits = self.model.unembed(x)
            self.depths[-1] += 1
            if kv_cache is None and logits[:, -1].softmax(-1).amax() >= self.confidence:
                break
        if kv_cache is not None:
            kv_cache.advance(tokens.shape[1])
        return logits


def written(predictor, kv_cache=None):
    draw = torch.Generator().manual_seed(0)
    tokens = db.generate(predictor, IDS[:1, :3], max_tokens=10, context_length=16, kv_cache=kv_cache, generator=draw)
    return [int(token) for token in tokens]


def test_a_predictor_leaves_the_stack_early(model):
    model.eval()
    never, at_once, sometimes = LeavesEarly(model, 1.1), LeavesEarly(model, 0.0), LeavesEarly(model, 0.06)
    assert written(never) == written(model)
    assert set(never.depths) == {4}
    shallow = copy.deepcopy(model)
    shallow.blocks = shallow.blocks[:1]
    assert written(at_once) == written(shallow) != written(model)
    assert set(at_once.depths) == {1}
    assert len(written(sometimes)) == 10
    assert len(set(sometimes.depths)) > 1
    for deepest in (1, 2, 4):  # the first blocks keep a cache of their own
        assert written(LeavesEarly(model, 1.1, deepest), db.KVCache(CONFIG)) == written(LeavesEarly(model, 1.1, deepest))


def test_an_ensemble_is_a_predictor(model):
    models = [model.eval(), build(CONFIG, 1).eval()]

    def ensemble(weights):
        return lambda tokens, kv_cache: sum(weight * one(tokens).softmax(-1) for weight, one in zip(weights, models, strict=True)).log()

    assert written(ensemble([1, 0])) == written(models[0])
    assert written(ensemble([0, 1])) == written(models[1])
    tokens = IDS[:1, :3]
    mixed = ensemble([0.5, 0.5])(tokens, None).softmax(-1)
    torch.testing.assert_close(mixed, (models[0](tokens).softmax(-1) + models[1](tokens).softmax(-1)) / 2)


# --- probe -------------------------------------------------------------------------------------------------------------------


class NoiseScale:
    """The simple gradient noise scale, tr(Σ) / |G|², from the gradients of small and large batches (McCandlish et al., 2018, app. A.1)."""

    def __init__(self, small, large):
        self.small, self.large = small, large
        self.norms, self.before = [], 0.0

    def __call__(self, model):
        gathered = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        share = self.small / self.large  # the loop divides each micro-batch by the whole step's weight
        self.norms.append(float(((gathered - self.before) / share).square().sum()))
        self.before = gathered

    def answer(self):
        small, large = sum(self.norms) / len(self.norms), float(self.before.square().sum())
        squared = (self.large * large - self.small * small) / (self.large - self.small)
        variance = (small - large) / (1 / self.small - 1 / self.large)
        return variance / squared


def test_a_probe_measures_the_gradient_noise_scale(model):
    probe = NoiseScale(small=2, large=16)
    accumulate(model, Steps(size=2)[0], cross_entropy, FP32, probe)
    groups = []
    for batch in Steps(size=2)[0]:  # directly: the gradient of each group's own mean
        model.zero_grad()
        cross_entropy(model, batch).mean().backward()
        groups.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double())
    groups = torch.stack(groups)
    # Of groups of 2 sequences the covariance is Σ/2; the mean of eight of them is off by Σ/16, which |mean|² holds too much of.
    sigma = 2 * groups.var(dim=0, unbiased=True).sum()
    squared = groups.mean(dim=0).square().sum() - sigma / 16
    assert probe.answer() == pytest.approx(float(sigma / squared), rel=1e-3)
    assert probe.answer() > 0


# --- objective ---------------------------------------------------------------------------------------------------------------


def distilling_from(teacher):
    """KL(teacher || model) of each token (Hinton et al., 2015), (B, T)."""

    def objective(model, batch):
        with torch.no_grad():
            wanted = teacher(batch.inputs).log_softmax(-1)
        return F.kl_div(model(batch.inputs).log_softmax(-1), wanted, reduction="none", log_target=True).sum(-1)

    return objective


def test_an_objective_distils_from_a_teacher(model):
    teacher = build(CONFIG, 9).eval()
    steps = train(model, adamw(model), Steps(size=8), lambda tokens: 3e-3, steps=25, objective=distilling_from(teacher))
    losses = [float(step.loss) for step in steps]
    assert losses[-1] < 0.75 * losses[0]
    own = distilling_from(teacher)(teacher, Steps()[0][0])
    assert own.shape == (16, 16)
    torch.testing.assert_close(own, torch.zeros(16, 16), rtol=0, atol=1e-5)


def test_an_objective_weighs_the_answer_alone(model):
    """Fine-tuning on answers: the same loop, with weights in the batch."""
    inputs, targets = IDS[:2, :-1], IDS[:2, 1:]
    weights = torch.zeros(2, 16)
    weights[:, 10:] = 1
    loss = accumulate(model, [Batch(inputs, targets, weights)], cross_entropy, FP32)
    expected = cross_entropy(model, Batch(inputs, targets))[:, 10:].mean()
    torch.testing.assert_close(loss, expected.detach())


# --- the loop yields ---------------------------------------------------------------------------------------------------------


def test_a_loop_stops_and_branches():
    """At step 5 a copy of model and optimizer goes on with another schedule; the first goes on as if nothing had been."""
    cosine, constant = warmup_cosine(1e-2, 1e-3, 512, 10 * 256), warmup_cosine(1e-2, 1e-2, 512, 10 * 256)
    alone = build(CONFIG, 0)
    unbranched = [float(step.loss) for step in train(alone, adamw(alone), Steps(), cosine, steps=10)]

    trunk = build(CONFIG, 0)
    optimizer = adamw(trunk)
    losses = []
    for step in train(trunk, optimizer, Steps(), cosine, steps=10):
        losses.append(float(step.loss))
        if step.number == 4:
            branch, branch_optimizer = copy.deepcopy((trunk, optimizer))  # one call, so that the copies belong together
    others = [float(step.loss) for step in train(branch, branch_optimizer, Steps(), constant, steps=10, start=5)]
    assert losses == unbranched
    assert same(trunk, alone)
    assert others[0] == losses[5]  # from the same weights
    assert others[-1] != losses[-1]
    assert not same(branch, trunk)


def test_a_loop_stops_when_its_reader_has_seen_enough(model):
    seen = []
    for step in train(model, adamw(model), Steps(), lambda tokens: 1e-2, steps=1000):
        seen.append(float(step.loss))
        if len(seen) == 3:
            break
    assert len(seen) == 3


# --- reshaping ---------------------------------------------------------------------------------------------------------------


class LowRank(nn.Module):
    """A linear layer as two thin ones."""

    def __init__(self, linear, rank):
        super().__init__()
        device = linear.weight.device
        self.down = nn.Linear(linear.in_features, rank, bias=False, device=device)
        self.up = nn.Linear(rank, linear.out_features, device=device)

    @staticmethod
    def of(linear, rank):
        """The best of its rank: the singular value decomposition (Eckart and Young, 1936)."""
        made = LowRank(linear, rank)
        U, S, V = torch.linalg.svd(linear.weight.detach(), full_matrices=False)
        made.down.weight.data, made.up.weight.data = (S[:rank, None] * V[:rank]).contiguous(), U[:, :rank].contiguous()
        made.up.bias = linear.bias
        return made

    def forward(self, x):
        return self.up(self.down(x))


def factored(model, make=LowRank, rank=8):
    """The way up of the last block's MLP replaced by two thin layers."""
    last = model.blocks[-1].mlp
    last.up = make(last.up, rank)
    return model


def without_last_block(model):
    model.blocks = model.blocks[:-1]
    return model


RESHAPINGS = {"without-last-block": without_last_block, "last-mlp-rank-8": factored}


def test_reshaped_models_are_saved_with_their_reshapings_by_name(model, tmp_path):
    tokens = IDS[:2, :16]
    original = model.eval()(tokens)
    reshaped = factored(without_last_block(model), make=LowRank.of)
    write_model(tmp_path / "model", reshaped, load_tokenizer("bytes"), reshapings=["without-last-block", "last-mlp-rank-8"])
    restored = load(tmp_path / "model", device="cpu", reshapings=RESHAPINGS)
    assert len(restored.gpt.blocks) == 3  # in the order in which they were made: the last block left is the factored one
    assert torch.equal(restored(tokens), reshaped(tokens))
    assert not torch.allclose(restored(tokens), original, atol=1e-2)
    assert "".join(restored.write("The sun", max_tokens=4, seed=0)) is not None


def test_a_factorisation_of_full_rank_changes_nothing(model):
    tokens = IDS[:2, :16]
    before = model.eval()(tokens)
    torch.testing.assert_close(factored(model, make=LowRank.of, rank=16)(tokens), before, rtol=1e-3, atol=1e-4)


def test_an_unknown_reshaping_is_a_named_error(model, tmp_path):
    write_model(tmp_path / "model", without_last_block(model), load_tokenizer("bytes"), reshapings=["without-last-block"])
    with pytest.raises(FileProblem, match="model: was reshaped by 'without-last-block', which is not known here"):
        load(tmp_path / "model", device="cpu")
    with pytest.raises(FileProblem, match=r"did you mean without-last-blocks\?"):
        load(tmp_path / "model", device="cpu", reshapings={"without-last-blocks": without_last_block})


def test_without_its_reshaping_the_weights_do_not_fit_and_it_is_said(model, tmp_path):
    write_model(tmp_path / "model", without_last_block(model), load_tokenizer("bytes"), reshapings=["without-last-block"])
    with pytest.raises(FileProblem, match=r"its weights do not fit its config\.json"):
        load(tmp_path / "model", device="cpu", reshapings={"without-last-block": lambda model: model})


# --- nothing inside knows ----------------------------------------------------------------------------------------------------

PACKAGE = Path(db.__file__).parent
INSIDE = [*sorted((PACKAGE / "model").glob("*.py")), PACKAGE / "training" / "loop.py", PACKAGE / "inference" / "generate.py"]
ATTACHED = re.compile(
    r"\b(early[_ ]?exit|exit|lens|distil\w*|teacher|student|reshap(e|ed|ing|ings)|noise|prun\w*|quantiz\w*|lora)\b", re.IGNORECASE
)


def code_lines(path):
    """Without docstrings and comments, which may say what attaches here; without tensors' own `.reshape(`."""
    text = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [re.sub(r"#.*|\.reshape\(", "", line) for line in text.splitlines()]


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: path.name)
def test_no_line_inside_knows_what_attaches(path):
    assert [line for line in code_lines(path) if ATTACHED.search(line)] == []


def test_the_search_would_find_it(tmp_path):
    (tmp_path / "a.py").write_text('"""Early exit may attach here."""\nif early_exit:\n    teacher(x)\n')
    assert len([line for line in code_lines(tmp_path / "a.py") if ATTACHED.search(line)]) == 2
