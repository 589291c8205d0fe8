"""The objective: one loss for each token, in nats and in fp32."""

import math

import torch

from daybreak.data.batches import Batch
from daybreak.training.objectives import cross_entropy, with_z_loss

TARGETS = torch.tensor([[0, 3, 1], [2, 2, 0]])
BATCH = Batch(torch.zeros(2, 3, dtype=torch.long), TARGETS)


def test_each_token_has_its_own_loss():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    losses = cross_entropy(lambda inputs: logits, BATCH)
    assert losses.shape == (2, 3)
    for b in range(2):
        for t in range(3):
            expected = -math.log(math.exp(logits[b, t, TARGETS[b, t]]) / sum(math.exp(value) for value in logits[b, t]))
            assert math.isclose(float(losses[b, t]), expected, rel_tol=1e-5)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary():
    losses = cross_entropy(lambda inputs: torch.zeros(2, 3, 4), BATCH)
    torch.testing.assert_close(losses, torch.full((2, 3), math.log(4)))


def test_logits_in_16_bits_give_a_loss_in_fp32():
    logits = torch.randn(2, 3, 4).bfloat16()
    losses = cross_entropy(lambda inputs: logits, BATCH)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, cross_entropy(lambda inputs: logits.float(), BATCH))


def test_logits_cut_from_a_padded_vocabulary():
    wide = torch.randn(2, 3, 64)
    assert torch.equal(cross_entropy(lambda inputs: wide[..., :4], BATCH), cross_entropy(lambda inputs: wide[..., :4].contiguous(), BATCH))


def test_z_loss_adds_the_square_of_the_softmax_s_normaliser():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)) * 3
    log_z = logits.exp().sum(-1).log()
    expected = cross_entropy(lambda inputs: logits, BATCH) + 0.01 * log_z * log_z
    torch.testing.assert_close(with_z_loss(0.01)(lambda inputs: logits, BATCH), expected)
    torch.testing.assert_close(with_z_loss(0.0)(lambda inputs: logits, BATCH), cross_entropy(lambda inputs: logits, BATCH))
    assert with_z_loss(0.01)(lambda inputs: logits.bfloat16(), BATCH).dtype == torch.float32


def test_z_loss_pulls_the_normaliser_to_one():
    logits = torch.full((2, 3, 4), 5.0, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=10.0)
    for _ in range(50):
        optimizer.zero_grad()
        (with_z_loss(0.1)(lambda inputs: logits, BATCH) - cross_entropy(lambda inputs: logits, BATCH)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(logits.detach().logsumexp(-1), torch.zeros(2, 3), atol=0.01, rtol=0)
