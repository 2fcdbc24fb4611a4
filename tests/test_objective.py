"""The SRO loss against hand-computed numbers and against trl's DPO loss where both agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_models import make_model

from sro_edge.training.objective import sro_loss, verdict_weights
from sro_edge.training.packing import Group, answer_logprobs, micro_batches, pack

END = 1  # of the vocabulary of two: token 0 is the only word, token 1 ends


class Bigram(torch.nn.Module):
    """p(next | token) from a table: log-probabilities that can be worked out by hand."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        logs = torch.tensor(table).log()
        self.embedding = torch.nn.Embedding.from_pretrained(logs, freeze=False)
        self.head = torch.nn.Linear(len(table), len(table), bias=False)
        self.head.weight.data = torch.eye(len(table))
        self.device = logs.device

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        class Output:
            logits = self.head(self.embedding(input_ids))

        return Output


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_the_loss_of_a_vocabulary_of_two_by_hand() -> None:
    policy = Bigram([[0.6, 0.4], [0.5, 0.5]])
    reference = Bigram([[0.8, 0.2], [0.5, 0.5]])
    y, x = [0, END], [0, 0, END]  # the paraphrase, and the input echoed
    packed = pack([Group([0], [y, x])], pad=END)
    logps = answer_logprobs(policy, packed)
    # The prompt's token predicts the first one of the answer; the end token counts.
    assert logps.tolist() == pytest.approx(
        [math.log(0.6) + math.log(0.4), 2 * math.log(0.6) + math.log(0.4)]
    )
    r_y, r_x = (logps - answer_logprobs(reference, packed)).tolist()
    assert r_y == pytest.approx(math.log(0.6 / 0.8) + math.log(0.4 / 0.2))
    losses, margins = sro_loss(
        torch.tensor([r_y, r_y]),
        torch.tensor([r_x, r_x]),
        torch.tensor([1.0, 0.0]),
        beta=0.5,
        label_smoothing=0.1,
    )
    z_pass, z_fail = math.log(0.8 / 0.6), -math.log(0.75 * 2)
    assert margins.tolist() == pytest.approx([z_pass, z_fail], abs=1e-6)
    expected = [-0.9 * log_sigmoid(0.5 * z) - 0.1 * log_sigmoid(-0.5 * z) for z in (z_pass, z_fail)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_weight_between_the_verdicts_mixes_their_losses() -> None:
    y, x = torch.tensor([1.0] * 3), torch.tensor([-1.0] * 3)
    weight = torch.tensor([1.0, 0.0, 0.25])
    (passed, failed, mixed), margins = sro_loss(y, x, weight, beta=0.5, label_smoothing=0.1)
    assert mixed.item() == pytest.approx((0.25 * passed + 0.75 * failed).item())
    assert margins.tolist() == [2.0, -1.0, -1.0]  # r(y) - r(x) where it passed, else -r(y)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_at_a_zero_adapter_the_loss_is_log_two(smoothing: float) -> None:
    zeros, weight = torch.zeros(4), torch.tensor([1.0, 0.0, 0.7, 1.125])
    losses, _ = sro_loss(zeros, zeros, weight, label_smoothing=smoothing)
    assert losses.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-6)


def test_smoothing_bounds_the_fail_term() -> None:
    # The minimum of the smoothed fail term lies where sigmoid(beta z) = 1 - eps.
    ratio = torch.tensor([-math.log(0.9 / 0.1) / 0.1], requires_grad=True)
    losses, _ = sro_loss(ratio, torch.zeros(1), torch.zeros(1), beta=0.1, label_smoothing=0.1)
    losses.sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("truth", [True, False])
def test_over_the_errors_the_robust_loss_is_the_right_one(truth: bool) -> None:
    error, y, x = 0.1, torch.tensor([1.5, 1.5]), torch.tensor([-0.5, -0.5])
    answers = torch.tensor([truth, not truth])  # what the screener says: right, and wrong
    losses, _ = sro_loss(y, x, verdict_weights(answers, error=error), beta=0.5)
    right, _ = sro_loss(y, x, torch.tensor([float(truth)] * 2), beta=0.5)
    expected = 0.9 * losses[0] + 0.1 * losses[1]
    assert expected.item() == pytest.approx(right[0].item(), abs=1e-6)


def test_without_error_a_weight_is_the_verdict_and_a_fact_outweighs_it() -> None:
    passed = torch.tensor([True, False, True])
    assert verdict_weights(passed).tolist() == [1.0, 0.0, 1.0]
    sound = torch.tensor([True, True, False])
    assert verdict_weights(passed, sound, 0.1).tolist() == pytest.approx([1.125, -0.125, 0.0])


PROMPT = [0, 20, 30, 40, 3]
ANSWERS = [[50, 60, 70, 80, 1], [50, 61, 1], [90, 1], [1]]


def plainly(model: Any, prompt: list[int], answer: list[int], left: int = 0) -> torch.Tensor:
    """The log-probability of one answer in a row of its own, padded on the left."""
    ids = torch.tensor([[2] * left + prompt + answer])
    mask = torch.tensor([[0] * left + [1] * (len(prompt) + len(answer))])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    logs = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
    return logs[-len(answer) :].sum()


@pytest.fixture
def in_one_thread() -> Iterator[None]:
    """A sum in fp32 differs from one number of threads to another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("in_one_thread")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_and_company_change_no_logprob(attention: str) -> None:
    model = make_model()
    model.set_attn_implementation(attention)
    other = Group([0, 33, 3], [[44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 1], [44, 1]])
    together = answer_logprobs(model, pack([Group(PROMPT, ANSWERS), other], 2))
    for i, answer in enumerate(ANSWERS):
        alone = answer_logprobs(model, pack([Group(PROMPT, [answer])], 2))
        for logp in (alone[0], plainly(model, PROMPT, answer), plainly(model, PROMPT, answer, 3)):
            assert logp.item() == pytest.approx(together[i].item(), abs=1e-5)


def test_packing_changes_no_gradient() -> None:
    def gradient(model: Any, packs: list[Any]) -> torch.Tensor:
        model.zero_grad()
        sum(answer_logprobs(model, p).sum() for p in packs).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    model = make_model()
    together = gradient(model, [pack([Group(PROMPT, ANSWERS)], 2)])
    apart = gradient(model, [pack([Group(PROMPT, [a])], 2) for a in ANSWERS])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    model.zero_grad()
    sum(plainly(model, PROMPT, answer) for answer in ANSWERS).backward()
    plain = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(together, plain, atol=1e-4, rtol=1e-4)


def test_micro_batches_hold_every_group_within_the_limit() -> None:
    groups = [Group([1] * width, [[1]]) for width in (5, 90, 7, 30, 6, 31, 8)]
    parts = list(micro_batches(groups, 64))
    assert sorted(i for part in parts for i in part) == list(range(7))
    assert parts[0] == [1]  # wider than the limit, so alone
    for part in parts[1:]:
        assert sum(len(groups[i].tree.ids) for i in part) <= 64


def test_what_answers_have_in_common_is_computed_once() -> None:
    tree = Group([7, 8], [[20, 21, 22, 1], [20, 23, 1], [20, 21, 24, 1], [20, 21], [1]]).tree
    assert tree.ids == [7, 8, 20, 21, 22, 24, 23]
    assert tree.positions == [0, 1, 2, 3, 4, 4, 3]
    assert tree.ends == [7, 7, 7, 6, 5, 6, 7]
    assert tree.sources == [[1, 2, 3, 4], [1, 2, 6], [1, 2, 3, 5], [1, 2], [1]]


def test_rows_are_shared_by_comments_and_little_is_padding() -> None:
    groups = [Group(range(4, 4 + n), [[40 + n, 1]]) for n in range(3, 33)]
    packed = pack(groups, 2)
    rows, width = packed.inputs["input_ids"].shape
    assert rows < len(groups) / 3
    assert sum(len(g.tree.ids) for g in groups) > 0.9 * rows * width
    model = make_model()
    together = answer_logprobs(model, packed)
    apart = answer_logprobs(model, pack(groups, 2, shared=False))
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def dpo_batch() -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A policy, a reference, and two preference pairs as trl collates them."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    policy, reference = make_model(), make_model()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    pairs = [
        {"prompt_ids": PROMPT, "chosen_ids": ANSWERS[0], "rejected_ids": ANSWERS[1]},
        {"prompt_ids": PROMPT[1:], "chosen_ids": ANSWERS[2], "rejected_ids": ANSWERS[0]},
    ]
    return policy, reference, DataCollatorForPreference(pad_token_id=2)(pairs)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(("kind", "normalised"), [("sigmoid", False), ("sigmoid_norm", True)])
def test_passing_rows_are_the_dpo_loss_of_trl(
    dpo_batch: Any, kind: str, normalised: bool, tmp_path: Path
) -> None:
    from datasets import Dataset
    from toy_models import make_tokenizer
    from trl import DPOConfig, DPOTrainer

    policy, reference, inputs = dpo_batch
    trainer = DPOTrainer(
        policy,
        reference,
        args=DPOConfig(
            str(tmp_path), loss_type=[kind], beta=0.3, use_cpu=True, bf16=False, report_to=[]
        ),
        processing_class=make_tokenizer(),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
    )
    theirs = trainer.compute_loss(trainer.model, inputs)
    groups = [Group(PROMPT, [ANSWERS[0], ANSWERS[1]]), Group(PROMPT[1:], [ANSWERS[2], ANSWERS[0]])]
    packed = pack(groups, 2)
    ratios = answer_logprobs(policy, packed) - answer_logprobs(reference, packed)
    if normalised:
        ratios = ratios / packed.lengths
    losses, _ = sro_loss(ratios[::2], ratios[1::2], torch.ones(2), beta=0.3, label_smoothing=0.0)
    assert losses.mean().item() == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(losses.mean().item() - math.log(2)) > 0.01  # else it would agree with anything
