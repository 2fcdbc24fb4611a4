"""A rollout and its gradients, on a tiny random model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from toy_models import SENTENCES, write_policy_run

from sro_edge.training.config import SROConfig
from sro_edge.training.follower import Verdicts
from sro_edge.training.packing import Group, pack
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import Sample, rollout
from sro_edge.training.step import sro_backward

LIMIT = 8


@pytest.fixture(scope="module")
def policy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("policy")
    write_policy_run(run)
    return run


@pytest.fixture
def policy(policy_run: Path) -> Policy:
    return open_policy(policy_run)


def open_policy(run: Path, **settings: object) -> Policy:
    return Policy(run / "model", config(**settings))


def config(**settings: object) -> SROConfig:
    plain = {"lora": False, "bf16": False, "rpo_alpha": 0.0, "max_new_tokens": LIMIT}
    return SROConfig(**{**plain, **settings})  # type: ignore[arg-type]


def nudge(policy: Policy) -> None:
    """Away from the reference, so that margins are not 0."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.05)


def verdicts(*passed: bool) -> Verdicts:
    return Verdicts(torch.tensor(passed), torch.zeros(len(passed)), None, None)


def gradient(
    policy: Policy, comments: Sequence[str], samples: Sequence[Sample], seen: Verdicts, **s: object
) -> tuple[torch.Tensor, dict[str, float]]:
    policy.model.zero_grad()
    metrics = sro_backward(policy, comments, samples, seen, config(**s))
    parts = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    return torch.cat(parts), metrics


@pytest.mark.parametrize("lora", [True, False])
def test_before_the_first_step_policy_is_reference(policy_run: Path, lora: bool) -> None:
    policy = open_policy(policy_run, lora=lora)
    policy.model.train()  # as in training: nothing random may stand between the two
    samples = rollout(policy, SENTENCES[:3], samples=2, max_new_tokens=LIMIT)
    grad, metrics = gradient(policy, SENTENCES[:3], samples, verdicts(*[True, False] * 3))
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert metrics["pass_rate"] == 0.5
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("full_preference", [True, False])
def test_accumulated_micro_batches_equal_one_batch(policy: Policy, full_preference: bool) -> None:
    nudge(policy)
    samples = rollout(policy, SENTENCES, samples=3, max_new_tokens=LIMIT)
    seen = verdicts(*[k % 4 == 0 for k in range(15)])  # unevenly over the comments
    settings = {"rpo_alpha": 0.7, "full_preference": full_preference}
    whole, metrics = gradient(policy, SENTENCES, samples, seen, **settings)
    for tokens in (1, 150):  # a comment at a time, and some at a time
        policy.pass_tokens = tokens
        parts, same = gradient(policy, SENTENCES, samples, seen, **settings)
        assert torch.allclose(whole, parts, atol=1e-6)
        assert same == pytest.approx(metrics, abs=1e-5)


def test_samples_that_came_twice_count_twice(policy: Policy) -> None:
    nudge(policy)
    once = rollout(policy, SENTENCES[:1], samples=1, max_new_tokens=LIMIT)
    single, metrics = gradient(policy, SENTENCES[:1], once, verdicts(True))
    double, same = gradient(policy, SENTENCES[:1], once * 2, verdicts(True, True))
    assert torch.allclose(single, double, atol=1e-6)
    assert same == pytest.approx(metrics, abs=1e-5)


def test_rpo_adds_the_likelihood_of_passing_samples(policy: Policy) -> None:
    samples = rollout(policy, SENTENCES[:2], samples=2, max_new_tokens=LIMIT)
    seen = verdicts(True, False, True, False)
    plain = gradient(policy, SENTENCES[:2], samples, seen)[1]["loss"]
    added = gradient(policy, SENTENCES[:2], samples, seen, rpo_alpha=0.5)[1]["loss"]
    passing = [samples[0], samples[2]]
    groups = [Group(policy.prompter.prompt(SENTENCES[s.comment]), [s.ids]) for s in passing]
    logps = policy.logprobs(pack(groups, policy.prompter.pad)).tolist()
    mean = sum(p / len(s.ids) for p, s in zip(logps, passing, strict=True)) / len(samples)
    assert added - plain == pytest.approx(-0.5 * mean, abs=1e-4)


def test_full_preference_rejects_a_failing_sample_of_the_same_comment(policy: Policy) -> None:
    nudge(policy)
    samples = rollout(policy, SENTENCES[:1], samples=2, max_new_tokens=LIMIT)
    prompt = policy.prompter.prompt(SENTENCES[0])
    packed = pack([Group(prompt, [s.ids for s in samples])], policy.prompter.pad)
    good, bad = (policy.logprobs(packed) - policy.reference_logprobs(packed)).tolist()
    settings = {"beta": 1.0, "full_preference": True}
    metrics = gradient(policy, SENTENCES[:1], samples, verdicts(True, False), **settings)[1]
    assert metrics["rewards/margins"] == pytest.approx((good - bad - bad) / 2, abs=1e-4)


def test_length_normalised_ratios_are_per_token(policy: Policy) -> None:
    nudge(policy)
    samples = rollout(policy, SENTENCES[:1], samples=1, max_new_tokens=LIMIT)
    whole = gradient(policy, SENTENCES[:1], samples, verdicts(False), beta=1.0)[1]
    per_token = gradient(
        policy, SENTENCES[:1], samples, verdicts(False), beta=1.0, length_normalised=True
    )[1]
    expected = whole["rewards/margins"] / len(samples[0].ids)
    assert per_token["rewards/margins"] == pytest.approx(expected, abs=1e-5)


def test_the_robust_leader_corrects_for_the_flip_rate(policy: Policy) -> None:
    nudge(policy)
    samples = rollout(policy, SENTENCES, samples=2, max_new_tokens=LIMIT)
    right = verdicts(*[True, False] * 5)
    wrong = verdicts(*[False, True] * 5)
    rate = {"screener_flip_rate": 0.2, "rpo_alpha": 0.5}
    truth, _ = gradient(policy, SENTENCES, samples, right, rpo_alpha=0.5)
    parts = [gradient(policy, SENTENCES, samples, seen, **rate)[0] for seen in (right, wrong)]
    assert torch.allclose(0.8 * parts[0] + 0.2 * parts[1], truth, atol=1e-6)
    plain, _ = gradient(policy, SENTENCES, samples, right, robust=False, **rate)
    assert torch.allclose(plain, truth, atol=1e-6)


def test_an_unsound_answer_has_failed_whatever_the_verdict(policy: Policy) -> None:
    samples = rollout(policy, SENTENCES[:2], samples=1, max_new_tokens=LIMIT)
    unsound = verdicts(True, True)._replace(sound=torch.tensor([True, False]))
    robust, _ = gradient(policy, SENTENCES[:2], samples, unsound)
    failed, _ = gradient(policy, SENTENCES[:2], samples, verdicts(True, False))
    assert torch.allclose(robust, failed, atol=1e-7)


def test_rollout_keeps_the_mode_and_ends_at_the_end_token(policy: Policy) -> None:
    policy.model.train()
    samples = rollout(policy, SENTENCES[:3], samples=4, max_new_tokens=40)
    assert policy.model.training
    assert [s.comment for s in samples] == [0] * 4 + [1] * 4 + [2] * 4
    assert {s.finished for s in samples} == {True, False}
    for sample in samples:
        assert sample.finished == (sample.ids[-1] == policy.prompter.eos)
        assert policy.prompter.eos not in sample.ids[:-1]  # nothing after it is in the loss


def test_a_sample_does_not_depend_on_its_company(policy: Policy) -> None:
    def texts(comments: list[str], seed: int = 0) -> list[tuple[int, ...]]:
        return [s.ids for s in rollout(policy, comments, samples=3, seed=seed)]

    together = texts(SENTENCES)
    apart = [ids for comment in SENTENCES for ids in texts([comment])]
    assert together == apart
    assert texts(SENTENCES[:1], seed=1) != together[:3]


def test_sampling_follows_the_model(policy: Policy) -> None:
    # The first token of many samples against the model's own distribution.
    drawn = [s.ids[0] for s in rollout(policy, SENTENCES[:1], samples=2000, max_new_tokens=1)]
    ids = torch.tensor([policy.prompter.prompt(SENTENCES[0])])
    with torch.no_grad():
        p = policy.model(ids).logits[0, -1].softmax(-1)
    likely = p.topk(3).indices.tolist()
    for token in likely:
        share = drawn.count(token) / len(drawn)
        assert share == pytest.approx(p[token].item(), abs=4 * (0.25 / len(drawn)) ** 0.5)


def test_greedy_is_what_the_model_generates(policy: Policy) -> None:
    for sample in rollout(policy, SENTENCES[:3], samples=1, temperature=0, max_new_tokens=12):
        prompt = torch.tensor([policy.prompter.prompt(SENTENCES[sample.comment])])
        theirs = policy.model.generate(
            prompt, max_new_tokens=12, do_sample=False, pad_token_id=policy.prompter.pad
        )[0, prompt.shape[1] :].tolist()
        assert list(sample.ids) == theirs


def test_guesses_change_no_sample_and_save_steps(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    policy.model.register_forward_hook(lambda *_: passes.append(1))
    assert policy.guesses

    def draw(guesses: bool, **options: float) -> tuple[list[tuple[int, ...]], int]:
        policy.guesses = guesses
        passes.clear()
        found = rollout(policy, SENTENCES, samples=3, max_new_tokens=20, **options)  # type: ignore[arg-type]
        return [s.ids for s in found], len(passes)

    sampled = draw(False)[0]
    assert draw(True)[0] == sampled  # the comment is a poor draft of a random model's answers
    greedy, steps = draw(False, temperature=0)
    answers = dict(zip(SENTENCES, greedy, strict=True))
    eos = policy.prompter.eos
    monkeypatch.setattr(policy.prompter, "answer", lambda c: (*answers[c][:20], eos))
    again, fewer = draw(True, temperature=0)
    assert [ids[: len(ids)] for ids in again] == greedy
    assert fewer < steps / 2
