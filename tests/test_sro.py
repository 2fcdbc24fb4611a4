"""The training loop: what is kept, when it stops, what it refuses, and the supervised phase."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_families import write_family
from toy_models import SENTENCES

from sro_edge.bundle import Thresholds
from sro_edge.errors import InputError, ModelError, OutputError
from sro_edge.training import processes, sro
from sro_edge.training.config import SROConfig
from sro_edge.training.follower import Classifier, Follower
from sro_edge.training.held_out import answer_all, measure, read_examples
from sro_edge.training.journal import read_metrics
from sro_edge.training.packing import Group, pack
from sro_edge.training.piles import read_texts
from sro_edge.training.policy import Policy
from sro_edge.training.sanity import passing_share
from sro_edge.training.sro import train_sro
from sro_edge.training.supervised import train_on_pairs

COMMENTS = [f"you {word} think {n} of it" for word in ("idiot", "fool", "clown") for n in range(16)]
CONFIG = SROConfig(
    lora=True,
    lora_rank=2,
    steps=4,
    comments=4,
    samples=2,
    max_new_tokens=6,
    eval_every=1,
    eval_comments=6,
    learning_rate=1e-2,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("base"), "smollm", template=None)


@pytest.fixture(scope="module")
def follower(screener_run: Path) -> Follower:
    return Follower(Classifier.load(screener_run / "model"), Thresholds(0.5, 0.0, 1.0))


def train(base: Path, follower: Follower, run: Path, **options: Any) -> Policy:
    names = {field.name for field in dataclasses.fields(SROConfig)}
    changes = {name: options.pop(name) for name in names & options.keys()}
    config = dataclasses.replace(CONFIG, **changes)
    policy = Policy(base, config)
    texts = options.pop("comments_", COMMENTS)
    train_sro(policy, follower, texts[:40], texts[40:], run, config, **options)
    return policy


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let evaluations find these J, one after another."""

    def script(*qualities: float) -> None:
        left = iter(qualities)
        monkeypatch.setattr(
            sro, "measure", lambda *_: {"eval/pass_rate": 0.5, "judge/J": next(left)}
        )

    return script


def test_the_best_step_is_kept_and_the_run_stops_early(
    base: Path, follower: Follower, tmp_path: Path, scripted: Any
) -> None:
    scripted(0.1, 0.3, 0.2, 0.3, 0.9)
    weights: dict[int, torch.Tensor] = {}

    def remember(metrics: dict[str, Any]) -> None:
        kept = next((tmp_path / "run").glob("best-*.safetensors"))
        weights[metrics["step"]] = next(iter(load_file(kept).values()))

    policy = train(base, follower, tmp_path / "run", steps=9, patience=2, progress=remember)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["steps"], record["kept"]["step"]) == (3, 1)
    assert record["before"]["judge/J"] == 0.1
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [0, 1, 2, 3]
    stored = load_file(tmp_path / "run" / "best-000001.safetensors")
    for name, parameter in policy.model.named_parameters():
        assert name not in stored or torch.equal(parameter, stored[name])
    examples = read_examples(tmp_path / "run")
    assert [row["comment"] for row in examples] == COMMENTS[40:46]
    assert read_texts([tmp_path / "run" / "held_out.jsonl"]) == COMMENTS[40:]
    assert examples[0].keys() == {"comment", "before", "after"}


def test_without_judges_the_last_step_is_kept(
    base: Path, follower: Follower, tmp_path: Path
) -> None:
    train(base, follower, tmp_path, steps=3, eval_every=2)
    assert json.loads((tmp_path / "run.json").read_text())["kept"]["step"] == 3
    lines = read_metrics(tmp_path)
    assert [("eval/pass_rate" in line, "loss" in line) for line in lines] == [
        (True, False),
        (False, True),
        (True, True),
        (True, True),
    ]
    known = {"loss", "pass_rate", "similarity", "rewards/margins", "rewards/accuracies"}
    known |= {"completions/mean_length", "tokens_per_second", "learning_rate", "grad_norm"}
    assert known <= lines[1].keys()


def test_a_run_goes_on_only_with_its_settings_and_texts(
    base: Path, follower: Follower, tmp_path: Path
) -> None:
    train(base, follower, tmp_path, steps=2, settings={"screener": "a"})
    with pytest.raises(OutputError, match=r"config\.beta was 0\.1 and is now 0\.2"):
        train(base, follower, tmp_path, beta=0.2, settings={"screener": "a"})
    with pytest.raises(OutputError, match='screener was "a" and is now "b"'):
        train(base, follower, tmp_path, settings={"screener": "b"})
    changed = ["another text", *COMMENTS[1:]]
    with pytest.raises(OutputError, match=r"data\.sha256 was"):
        train(base, follower, tmp_path, comments_=changed, settings={"screener": "a"})
    # What changes no loss may change: more steps, and what saves memory.
    options = {"micro_batch_tokens": 64, "gradient_checkpointing": True, "patience": 9}
    train(base, follower, tmp_path, steps=3, settings={"screener": "a"}, **options)
    train(base, follower, tmp_path / "whole", steps=3)
    losses = [
        [line.get("loss") for line in read_metrics(f)] for f in (tmp_path, tmp_path / "whole")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=2e-5, nan_ok=False)


def test_a_resumed_run_keeps_its_prompt(base: Path, follower: Follower, tmp_path: Path) -> None:
    train(base, follower, tmp_path, steps=1)
    settings = json.loads((tmp_path / "settings.json").read_text())
    settings["template"]["prefix"] += "on the 3rd of May "  # as a template with a date would
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert train(base, follower, tmp_path).template.prefix.endswith("May ")


def test_out_of_memory_names_the_three_knobs(
    base: Path, follower: Follower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = "--micro-batch-tokens.*--gradient-checkpointing.*--four-bit"
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ):

        def fail(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(sro, "sro_backward", fail)
        with pytest.raises(ModelError, match=knobs):
            train(base, follower, tmp_path)
    monkeypatch.setattr(sro, "sro_backward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # our own faults keep their traceback
        train(base, follower, tmp_path)


def test_a_loss_that_is_no_number_ends_the_run(
    base: Path, follower: Follower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sro, "sro_backward", lambda *_: {"loss": float("nan")})
    with pytest.raises(ModelError, match="the loss is nan at step 1; lower --learning-rate"):
        train(base, follower, tmp_path)


def test_too_few_comments_are_refused(
    base: Path, follower: Follower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="too few"):
        train(base, follower, tmp_path, comments=48)
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(InputError, match="evenly among 3 processes"):
        train(base, follower, tmp_path)


def test_every_held_out_comment_is_answered_in_order(base: Path, follower: Follower) -> None:
    comments = sorted(COMMENTS, key=lambda text: hash(text) % 7)
    found = answer_all(Policy(base, CONFIG), comments, max_new_tokens=4)
    assert [sample.comment for sample in found] == list(range(48))
    assert 0 <= measure(follower, None, comments, found)["eval/pass_rate"] <= 1


def test_a_screener_that_passes_all_or_nothing_is_refused(follower: Follower) -> None:
    def at(threshold: float) -> Follower:
        return dataclasses.replace(follower, thresholds=Thresholds(threshold, 0, 1))

    with pytest.raises(InputError, match="passes 100 % of the toxic pile at the threshold 1"):
        passing_share(at(1.0), COMMENTS)
    with pytest.raises(InputError, match="passes 0 % of the toxic pile and 0 % of 6 harmless"):
        passing_share(at(0.0), COMMENTS)
    middle = follower.classifier.judge(SENTENCES).toxicity.median().item()
    assert passing_share(at(middle), SENTENCES) == pytest.approx(0.6)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_pairs_come_first_and_become_the_reference(base: Path, tmp_path: Path, lora: bool) -> None:
    pairs = [(text, text.replace("idiot ", "")) for text in COMMENTS]
    config = dataclasses.replace(CONFIG, lora=lora, pairs_epochs=2, checkpoint_seconds=0.0)

    whole = Policy(base, config)
    train_on_pairs(whole, pairs, tmp_path / "whole", config)
    losses = [line["loss"] for line in read_metrics(tmp_path / "whole" / "pairs")]
    assert len(losses) == 24
    assert sum(losses[-4:]) < 0.93 * sum(losses[:4])

    def kill(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_on_pairs(Policy(base, config), pairs, tmp_path / "run", config, progress=kill)
    resumed = Policy(base, config)
    train_on_pairs(resumed, pairs, tmp_path / "run", config)
    again = [line["loss"] for line in read_metrics(tmp_path / "run" / "pairs")]
    assert again == pytest.approx(losses, abs=1e-5)
    with pytest.raises(OutputError, match="pairs was"):
        train_on_pairs(Policy(base, config), pairs[1:], tmp_path / "run", config)
    done = Policy(base, config)  # only loaded this time
    train_on_pairs(done, pairs, tmp_path / "run", config)
    prompter = whole.prompter
    x, y = pairs[0]
    packed = pack([Group(prompter.prompt(x), [prompter.answer(y)])], prompter.pad)
    with torch.no_grad():
        found = [policy.logprobs(packed).item() for policy in (whole, resumed, done)]
    assert found == pytest.approx([whole.reference_logprobs(packed).item()] * 3, abs=1e-4)
    assert found[0] > Policy(base, config).logprobs(packed).item() + 1
