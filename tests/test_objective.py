"""The SRO loss against hand-computed numbers and against the DPO formula where both agree."""

import math

import pytest
import torch
from torch.nn import functional as F

from sro_edge.training.objective import IGNORED, answer_logprobs, sro_loss


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_logprobs_are_shifted_and_masked_by_hand() -> None:
    # Vocabulary of two; at every place p(token 1) = 0.75, but at place 1 p(token 1) = 0.9.
    logits = torch.tensor([[[0.25, 0.75], [0.1, 0.9], [0.25, 0.75], [0.25, 0.75]]]).log()
    labels = torch.tensor([[IGNORED, IGNORED, 1, 0]])
    # Token at place 2 is scored by the logits at place 1, the one at place 3 by those at 2.
    assert answer_logprobs(logits, labels).item() == pytest.approx(math.log(0.9) + math.log(0.25))


def test_end_token_counts_and_padding_does_not() -> None:
    logits = torch.randn(1, 6, 5)
    labels = torch.tensor([[IGNORED, 1, 2, 4, IGNORED, IGNORED]])  # 4 = end token
    expected = logits.log_softmax(-1)
    wanted = expected[0, 0, 1] + expected[0, 1, 2] + expected[0, 2, 4]
    assert answer_logprobs(logits, labels).item() == pytest.approx(wanted.item(), abs=1e-5)


def test_loss_by_hand() -> None:
    y, x = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 5.0])
    loss, margins = sro_loss(y, x, torch.tensor([True, False]), beta=0.5, label_smoothing=0.1)
    assert margins.tolist() == [2.0, -2.0]  # r(y) - r(x) where it passed, -r(y) where it failed
    passed = -0.9 * log_sigmoid(1.0) - 0.1 * log_sigmoid(-1.0)
    failed = -0.9 * log_sigmoid(-1.0) - 0.1 * log_sigmoid(1.0)
    assert loss.item() == pytest.approx((passed + failed) / 2, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_at_a_zero_adapter_the_loss_is_log_two(smoothing: float) -> None:
    zeros = torch.zeros(4)
    loss, _ = sro_loss(
        zeros, zeros, torch.tensor([True, False, True, False]), label_smoothing=smoothing
    )
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)


def test_passing_rows_are_conservative_dpo() -> None:
    # DPO: -(1-eps) log sigmoid(beta (chosen - rejected ratios)) - eps log sigmoid(-...).
    chosen, rejected = torch.randn(8), torch.randn(8)
    loss, _ = sro_loss(chosen, rejected, torch.ones(8, dtype=torch.bool), beta=0.1)
    delta = 0.1 * (chosen - rejected)
    dpo = -0.9 * F.logsigmoid(delta) - 0.1 * F.logsigmoid(-delta)
    assert loss.item() == pytest.approx(dpo.mean().item(), abs=1e-7)


def test_smoothing_bounds_the_fail_term() -> None:
    failed = torch.tensor([False])
    ratio = torch.tensor([0.0], requires_grad=True)
    # The minimum of the smoothed fail term lies where sigmoid(beta z) = 1 - eps.
    best = -math.log(0.9 / 0.1) / 0.1
    with torch.no_grad():
        ratio.fill_(best)
    loss, _ = sro_loss(ratio, torch.zeros(1), failed, beta=0.1, label_smoothing=0.1)
    loss.backward()
    assert ratio.grad is not None
    assert ratio.grad.item() == pytest.approx(0.0, abs=1e-6)
