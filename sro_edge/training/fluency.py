"""The trainer of the fluency judge: real sentences beside broken ones.

Every step sees pairs of a better and a worse text: a sentence and a corrupted copy of it, the two
sides of a grammatical minimal pair (BLiMP, Warstadt et al. 2020), or two rated ones (query
well-formedness, Faruqui and Das 2018). The loss has three parts: of a corrupted copy, which tokens
are at fault; whether the whole is broken; and that the better of the two is the more fluent
(pairwise logistic loss, Burges et al. 2005).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import AutoModelForTokenClassification, AutoTokenizer

from sro_edge.durable import write_json
from sro_edge.evaluation.fluency import LABEL, POOLING, FluencyJudge, broken_logit
from sro_edge.segments import words
from sro_edge.training.config import JudgesConfig
from sro_edge.training.corruption import (
    JUDGE_MIX,
    Corruptor,
    drop_words,
    faults,
    informal,
)
from sro_edge.training.encoder import resolve
from sro_edge.training.fine_tuning import fine_tune
from sro_edge.training.precision import autocast

_POOL = 20  # batches whose pairs are sorted by length together
_TOKEN_WEIGHT = 5.0  # few tokens are at fault, so their mean loss is small
_CALIBRATED = 2000  # texts of each kind, at most


class Text(NamedTuple):
    """A text; how fluent it is from 0 to 1, and where it is at fault; None where not known."""

    text: str
    fluent: float | None
    wrong: Sequence[tuple[int, int]] | None


Pair = tuple[Text, Text]  # the better one first


@dataclass(frozen=True)
class Material:
    """What the judge learns from.

    Args:
        sentences: whole ones, of any toxicity, to be corrupted.
        minimal: (acceptable, unacceptable) pairs.
        rated: texts with a rating from 0 to 1.
    """

    sentences: Sequence[str]
    minimal: Sequence[tuple[str, str]] = ()
    rated: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class Yardsticks:
    """Texts that set the cut, and those that show what it does.

    Args:
        human: rewrites by people: most of them shall pass.
        deleted: toxic comments without their toxic words: the word-deleting baseline.
    """

    human: Sequence[str]
    deleted: Sequence[str] = ()


def draw_pair(
    material: Material, corruptor: Corruptor, config: JudgesConfig, rng: random.Random
) -> Pair:
    """A better and a worse text, written in the same way."""
    while True:
        kind, write = rng.random(), informal(rng)
        if material.minimal and kind < config.minimal_share:
            better, worse = rng.choice(material.minimal)
            return Text(write(better), None, None), Text(write(worse), None, None)
        if material.rated and kind < config.minimal_share + config.rated_share:
            high, low = sorted(rng.choices(material.rated, k=2), key=lambda r: -r[1])
            if high[1] - low[1] >= 0.3:
                return Text(write(high[0]), high[1], None), Text(write(low[0]), low[1], None)
            continue
        whole = " ".join(write(rng.choice(material.sentences)).split())
        broken = corruptor.corrupt(whole, rng)
        if broken:
            return Text(whole, 1.0, ()), Text(broken, 0.0, faults(whole, broken))


def pair_batches(material: Material, config: JudgesConfig, skip: int = 0) -> Iterator[list[Pair]]:
    """Endless batches of pairs of like length; deterministic, resumable by step."""
    sample = random.Random(config.seed).sample(
        material.sentences, min(3000, len(material.sentences))
    )
    corruptor = Corruptor([w for text in sample for w in words(text) if w.isalpha()], JUDGE_MIX)
    pool = skip // _POOL
    skip %= _POOL
    while True:
        rng = random.Random(f"{config.seed}/{pool}")
        drawn = sorted(
            (draw_pair(material, corruptor, config, rng) for _ in range(_POOL * config.pairs)),
            key=lambda pair: len(pair[0].text),
        )
        chunks = [drawn[i : i + config.pairs] for i in range(0, len(drawn), config.pairs)]
        rng.shuffle(chunks)
        yield from chunks[skip:]
        pool, skip = pool + 1, 0


def fluency_loss(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], max_length: int
) -> dict[str, torch.Tensor]:
    """The three parts of the loss, their sum, and the share of pairs in the right order."""
    rows = [text for pair in pairs for text in pair]  # better, worse, better, ...
    encoded = tokenizer(
        [row.text for row in rows],
        padding=True,
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
        return_offsets_mapping=True,
    ).to(model.device)
    places = encoded.pop("offset_mapping")  # (B, T, 2)
    with autocast(model.device):
        logits = model(**encoded).logits.squeeze(-1).float()  # (B, T)
    at_fault, known = _token_targets(rows, places)
    tokens = F.binary_cross_entropy_with_logits(logits, at_fault, reduction="none")
    token = (tokens * known).sum() / known.sum().clamp_min(1)
    broken = broken_logit(logits, encoded["attention_mask"])  # (B,)
    rated = torch.tensor([i for i, row in enumerate(rows) if row.fluent is not None])
    sentence = broken.sum() * 0
    if len(rated):
        wanted = torch.tensor([1 - (rows[i].fluent or 0.0) for i in rated.tolist()])
        sentence = F.binary_cross_entropy_with_logits(
            broken[rated.to(broken.device)], wanted.to(broken.device)
        )
    margin = broken[1::2] - broken[0::2]
    rank = F.softplus(-margin).mean()
    total = sentence + rank + _TOKEN_WEIGHT * token
    ordered = (margin > 0).float().mean()
    return {"loss": total, "sentence": sentence, "rank": rank, "token": token, "ordered": ordered}


def _token_targets(rows: Sequence[Text], places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens are at fault (B, T), and of which that is known (B, T), both as 0 and 1."""
    start, end = places[..., 0], places[..., 1]
    real = end > start
    at_fault, known = torch.zeros_like(start).float(), torch.zeros_like(start).float()
    for i, row in enumerate(rows):
        if row.wrong is None:
            continue
        known[i] = real[i].float()
        for low, high in row.wrong:
            at_fault[i] += ((start[i] < high) & (end[i] > low) & real[i]).float()
    return at_fault.clamp_max(1), known


def train_fluency(
    material: Material,
    yardsticks: Yardsticks,
    run: Path,
    config: JudgesConfig,
    *,
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
    checkpoint_every: float = 120.0,
) -> dict[str, Any]:
    """Train the fluency judge, set its cut and write it as an HF folder ``run/model``.

    Args:
        material: what it learns from.
        yardsticks: what sets its cut.
        run: folder of checkpoints, ``metrics.jsonl`` and the result; resumed from a checkpoint.
        config: how to train.
        progress: called with the metrics of every logged step.
        checkpoint_every: seconds between checkpoints.

    Returns:
        the cut, and what passes under it; see :func:`calibrate`.
    """
    torch.manual_seed(config.seed)
    judge = _new_judge(config.base)
    model = judge.model
    steps = config.fluency_steps

    def rate(done: int) -> float:
        factor = min(1, (done + 1) / (0.06 * steps), 1.02 - done / steps)
        return config.fluency_learning_rate * factor

    fine_tune(
        model,
        lambda skip: pair_batches(material, config, skip=skip),
        lambda pairs: fluency_loss(model, judge.tokenizer, pairs, config.max_length),
        run,
        steps=steps,
        rate=rate,
        progress=progress,
        checkpoint_every=checkpoint_every,
    )
    found = calibrate(judge, yardsticks, config.accepted, config.seed)
    model.config.sro_fluency_cut = found["cut"]
    model.save_pretrained(run / "model")
    judge.tokenizer.save_pretrained(run / "model")
    record = {"kind": "fluency judge", "config": asdict(config), "metrics": found}
    write_json(run / "run.json", record)
    return found


def calibrate(
    judge: Callable[[Sequence[str]], torch.Tensor],
    yardsticks: Yardsticks,
    accepted: float,
    seed: int = 0,
) -> dict[str, Any]:
    """The cut under which ``accepted`` of the human texts pass, and what else passes under it.

    Under the field's judge .88 of the human references and .64 of word-deleting are fluent
    (ParaDetox). A judge that sees holes refuses most references that lost two random words.

    Returns:
        ``cut``, and the shares ``human``, ``two_words_dropped`` and, where there is deleted text,
        ``deleted``, with the counts of texts.
    """
    human = list(yardsticks.human)[:_CALIBRATED]
    rng = random.Random(seed)
    seen = judge(human)
    cut = float(seen.quantile(1 - accepted))
    kinds = {"human": seen, "two_words_dropped": judge([drop_words(t, 2, rng) for t in human])}
    if yardsticks.deleted:
        kinds["deleted"] = judge(list(yardsticks.deleted)[:_CALIBRATED])
    shares = {name: round(float((p >= cut).float().mean()), 4) for name, p in kinds.items()}
    return {"cut": round(cut, 6), **shares, "texts": {n: len(p) for n, p in kinds.items()}}


def _new_judge(base: str) -> FluencyJudge:
    """An untrained judge on top of ``base``, which finds hardly anything broken yet."""
    folder = resolve(base)
    model = AutoModelForTokenClassification.from_pretrained(
        folder,
        num_labels=1,
        id2label={0: LABEL},
        label2id={LABEL: 0},
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # a base with another head gets a new one
        attn_implementation="eager",  # on short rows the CPU's fused backward is slower
    )
    model.config.sro_pooling = POOLING
    model.base_model.embeddings.requires_grad_(False)
    torch.nn.init.constant_(model.classifier.bias, -3.0)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return FluencyJudge(model, AutoTokenizer.from_pretrained(folder))
