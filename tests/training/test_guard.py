"""The guard: nothing that is not finite reaches the weights or the optimizer's memory, and the run ends when it does not stop."""

import copy
import math

import pytest
import torch

from daybreak.data.batches import Batch
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.guard import Guard, TrainingFailed
from daybreak.training.loop import train
from daybreak.training.objectives import cross_entropy

FINE, NAN, INF = torch.tensor(1.0), torch.tensor(math.nan), torch.tensor(math.inf)


@pytest.mark.parametrize(("loss", "grad_norm"), [(NAN, FINE), (INF, FINE), (FINE, NAN), (FINE, INF), (-INF, FINE)])
def test_what_is_not_finite_is_refused(loss, grad_norm):
    guard = Guard()
    assert guard.accepts(FINE, FINE) is True
    assert guard.accepts(loss, grad_norm) is False
    assert guard.skipped_in_a_row == 1
    assert guard.accepts(FINE, FINE) is True
    assert guard.skipped_in_a_row == 0


def test_patience_counts_in_a_row_and_over_a_resume():
    guard = Guard(patience=3)
    for loss in (NAN, NAN, FINE, NAN, NAN):
        guard.accepts(loss, FINE)
    resumed = Guard(patience=3, skipped_in_a_row=guard.skipped_in_a_row)
    with pytest.raises(TrainingFailed, match=r"3 steps in a row; begin a new run with a lower train\.learning_rate"):
        resumed.accepts(NAN, FINE)


class SameBatch:
    def __getitem__(self, step):
        tokens = torch.arange(18).view(2, 9)
        return [Batch(tokens[:, :-1], tokens[:, 1:])]

    def tokens_after(self, step):
        return 16 * (step + 1)


@pytest.mark.parametrize("name", ["NaN loss", "NaN gradient"])
def test_a_broken_step_changes_neither_weights_nor_moments(name):
    model = build(GPTConfig(vocab_size=64, context_length=8, n_layer=1, n_head=1, d_model=8), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    broken = {2, 3}
    number = iter(range(100))

    def objective(model, batch):
        losses = cross_entropy(model, batch)
        if next(number) not in broken:
            return losses
        return losses * math.nan if name == "NaN loss" else losses + (model.norm.bias * 0.0).sum().sqrt()  # 0 times its infinite slope

    steps = train(model, optimizer, SameBatch(), lambda tokens: 1e-2, steps=6, objective=objective)
    kept = None
    for step in steps:
        state = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
        assert step.accepted == (step.number not in broken)
        if not step.accepted:
            assert not (torch.isfinite(step.loss) and torch.isfinite(step.grad_norm))
            assert all(torch.equal(state[0][key], kept[0][key]) for key in state[0])
            assert all(torch.equal(state[1][i][key], kept[1][i][key]) for i in state[1] for key in state[1][i])
        elif kept is not None:
            assert not torch.equal(state[0]["norm.weight"], kept[0]["norm.weight"])
        assert all(parameter.grad is None for parameter in model.parameters())
        kept = state
