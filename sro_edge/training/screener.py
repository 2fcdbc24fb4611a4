"""The screener: one encoder, three answers in one pass.

Toxicity (from labelled comments), fluency (whole sentences against corrupted copies of them) and a
sentence embedding kept close to the base encoder's by distillation. It is saved as a plain Hugging
Face sequence classifier with the labels ``toxic`` and ``fluent`` (a sigmoid each); the embedding is
the mean of its last hidden states.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from sro_edge.bundle import Thresholds
from sro_edge.errors import InputError
from sro_edge.segments import words
from sro_edge.signs import read_out
from sro_edge.training.config import ScreenerConfig
from sro_edge.training.corruption import JUDGE_MIX, SCREENER_MIX, Corruptor
from sro_edge.training.encoder import mean_pool, resolve
from sro_edge.training.fine_tuning import fine_tune
from sro_edge.training.follower import Classifier
from sro_edge.training.labels import label_names
from sro_edge.training.metrics import best_f1_threshold, classification_report, recall_threshold
from sro_edge.training.piles import Labelled
from sro_edge.training.precision import autocast
from sro_edge.training.runs import model_folder, run_record
from sro_edge.training.screener_rows import UNKNOWN, Row, batches

LABELS = ("toxic", "fluent")
_UNSURE = 0.25  # farther from its label a correction is one that a screener has still to learn

FluentOf = Callable[[Sequence[str]], torch.Tensor]  # texts -> how fluent each is, in [0, 1]


def load_classifier(
    base: str, labels: Sequence[str] = LABELS, *, embeds: bool = True
) -> tuple[Any, Any]:
    """A sequence classifier with these labels on top of ``base``, and its tokenizer."""
    folder = model_folder(resolve(base))
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type="multi_label_classification",
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # a base with another head gets a new one
        attn_implementation="eager",  # on short rows the CPU's fused backward is slower
    )
    model.config.sro_embedding = "mean" if embeds else None
    return model, AutoTokenizer.from_pretrained(folder)


def screener_loss(
    model: Any,
    teacher: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    config: ScreenerConfig,
    fluency_judge: FluentOf | None = None,
    earlier: Classifier | None = None,
) -> dict[str, torch.Tensor]:
    """Binary cross entropy of the labels where known, plus distillation of the embedding.

    Without a fluency label or a teacher, their parts of the loss are left out. A ``fluency_judge``
    has the word on how fluent a text is, for a copy that lost a word may be whole; without one, an
    ``earlier`` screener has it. With ``config.retain``, all texts but corrections of which it is
    not sure are to keep the toxicity that it gives them (learning without forgetting, Li and
    Hoiem 2016, arXiv 1606.09282).
    """
    encoded = tokenizer(
        [read_out(r.text) for r in rows],
        padding=True,
        truncation=True,
        max_length=config.max_length,
        return_tensors="pt",
    ).to(model.device)
    if earlier is not None:
        rows = _retained(rows, earlier, config.retain)
    if fluency_judge is not None:
        asked = [i for i, row in enumerate(rows) if row.fluent != UNKNOWN]
        judged = fluency_judge([rows[i].text for i in asked]).tolist() if asked else []
        rows = list(rows)
        for i, fluent in zip(asked, judged, strict=True):
            rows[i] = rows[i]._replace(fluent=fluent)
    learned = LABELS[: model.config.num_labels]
    targets = torch.tensor([[r.toxic, r.fluent] for r in rows], device=model.device)  # (B, 2)
    targets = targets[:, : len(learned)]
    with autocast(model.device):
        out = model(**encoded, output_hidden_states=teacher is not None)
    known = (targets != UNKNOWN).float()
    losses = F.binary_cross_entropy_with_logits(
        out.logits.float(), targets.clamp_min(0), reduction="none"
    )
    parts = dict(zip(learned, (losses * known).sum(0) / known.sum(0).clamp_min(1), strict=True))
    if teacher is not None:
        mask = encoded["attention_mask"]
        with torch.no_grad(), autocast(model.device):
            reference = teacher(**encoded).last_hidden_state
        student = mean_pool(out.hidden_states[-1], mask)
        parts["distill"] = 1 - (student * mean_pool(reference, mask)).sum(-1).mean()
    weights = {"fluent": config.fluency_weight, "distill": config.distill_weight}
    total = torch.stack([weights.get(name, 1.0) * loss for name, loss in parts.items()]).sum()
    return {"loss": total, **parts}


def _retained(rows: Sequence[Row], earlier: Classifier, weight: float) -> list[Row]:
    """The rows with what ``earlier`` says of them: fluency, and toxicity but of what is new to it.

    A toxicity label counts for the rest of ``weight``; where there is none, nothing else counts.
    """
    kept = list(rows)
    asked = [i for i, row in enumerate(rows) if weight or row.fluent != UNKNOWN]
    said = earlier.judge([rows[i].text for i in asked])
    assert said.fluency is not None  # its labels say that it has one
    for i, p, fluent in zip(asked, said.toxicity.tolist(), said.fluency.tolist(), strict=True):
        row = rows[i] if rows[i].fluent == UNKNOWN else rows[i]._replace(fluent=fluent)
        label = p if row.toxic == UNKNOWN else row.toxic
        unlearned = row.corrects and abs(p - label) > _UNSURE
        if weight and not unlearned:
            row = row._replace(toxic=weight * p + (1 - weight) * label)
        kept[i] = row
    return kept


def screener_steps(comments: int, config: ScreenerConfig, *, sentences: bool = False) -> int:
    """Steps of a training on so many labelled comments, with or without fluency rows."""
    rows = comments + (int(config.fluency_rows * comments) if sentences else 0)
    return max(1, int(config.epochs * rows / config.batch_rows))


def train_screener(
    train: Labelled,
    dev: Labelled,
    sentences: Sequence[str],
    dev_sentences: Sequence[str],
    run: Path,
    config: ScreenerConfig,
    *,
    test: Labelled | None = None,
    fluency_judge: FluentOf | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
    checkpoint_every: float = 120.0,
) -> Path:
    """Fine-tune a screener and write it as an HF folder ``run/model``.

    Without sentences it gets no fluency output, and no embedding where nothing is distilled. Where
    ``config.base`` is such a screener, it goes on learning.

    Args:
        train: labelled comments.
        dev: labelled comments on which the thresholds are picked.
        sentences: whole sentences of any toxicity for the fluency output; may be empty.
        dev_sentences: held-out ones, for the fluency threshold.
        run: folder of checkpoints, ``metrics.jsonl`` and the result; resumed from a checkpoint.
        config: how to train.
        test: labelled comments that are only reported on.
        fluency_judge: says how fluent the sentences and their broken copies are; default: the
            screener that goes on learning, as it was; else the sentences are fluent, and the copies
            are not.
        progress: called with the metrics of every logged step.
        checkpoint_every: seconds between checkpoints.

    Raises:
        InputError: a screener with a fluency output is to go on learning without sentences, or what
            it said is to be retained of a base that is none.
    """
    torch.manual_seed(config.seed)
    embeds = config.distill_weight > 0
    learned = LABELS if sentences and config.fluency_rows else LABELS[:1]
    earlier = earlier_screener(config, sentences=bool(sentences))
    model, tokenizer = load_classifier(config.base, learned, embeds=embeds)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    teacher = copy.deepcopy(model.base_model).eval().requires_grad_(False) if embeds else None
    if config.freeze_embeddings:
        model.base_model.embeddings.requires_grad_(False)
    steps = screener_steps(len(train.texts), config, sentences=bool(sentences))
    mix = SCREENER_MIX if fluency_judge is None and earlier is None else JUDGE_MIX
    if fluency_judge is not None and not config.retain:
        earlier = None  # it has nothing to say
    fine_tune(
        model,
        lambda skip: batches(train, sentences, config, mix, skip),
        lambda rows: screener_loss(model, teacher, tokenizer, rows, config, fluency_judge, earlier),
        run,
        steps=steps,
        rate=lambda done: config.learning_rate * min(1, done / steps / 0.05, 1.02 - done / steps),
        progress=progress,
        checkpoint_every=checkpoint_every,
    )
    return _finish(Classifier(model, tokenizer), dev, dev_sentences, run, config, test)


def earlier_screener(config: ScreenerConfig, *, sentences: bool) -> Classifier | None:
    """The screener that goes on learning, as it was; None where ``config.base`` is none.

    Args:
        config: how it is to learn.
        sentences: whether there are any for its fluency output.

    Raises:
        InputError: as :func:`train_screener` does.
    """
    folder = model_folder(resolve(config.base))
    if LABELS[1] in label_names(AutoConfig.from_pretrained(folder)):
        if not (sentences and config.fluency_rows):
            raise InputError(
                f"{config.base} is a screener with a fluency output, which would be lost: give "
                "--sentences, and --fluency-rows above 0, to go on from it"
            )
        return Classifier.load(folder)
    if config.retain:
        raise InputError(
            f"{config.base} is no screener, so there is nothing of its to retain: leave out "
            "--retain, or give the run of a screener as --base"
        )
    return None


def calibrate(
    classifier: Classifier, toxicity: torch.Tensor, labels: Sequence[int]
) -> tuple[float, float]:
    """Fit the toxicity output's scale and offset to labels, and put them into its last layer.

    Platt scaling (Platt 1999): the order of texts, and so every F1, stays as it is.

    Args:
        classifier: changed.
        toxicity: what it says of N comments that it has not learned from, (N,).
        labels: of these, 1 is toxic.

    Returns:
        scale and offset of the log-odds; (1, 0) where nothing is changed: the last layer is not
        linear or has no bias, labels exclude each other, the comments have one label only, or the
        order would be turned round.
    """
    wide = classifier.model.config.num_labels
    heads = [
        m
        for m in classifier.model.modules()
        if isinstance(m, torch.nn.Linear) and m.out_features == wide and m.bias is not None
    ]
    if not heads or not classifier.sigmoid or len(set(labels)) < 2:
        return 1.0, 0.0
    odds = torch.logit(toxicity.double(), eps=1e-6).numpy()[:, None]
    ones = np.array(labels)
    # Platt's targets keep off 0 and 1, so that a classifier without errors gets no endless scale.
    target = np.where(ones == 1, 1 - 1 / (ones.sum() + 2), 1 / ((ones == 0).sum() + 2))
    sides = np.concatenate([np.ones_like(ones), np.zeros_like(ones)])
    counts = np.concatenate([target, 1 - target])
    fitted = LogisticRegression(C=1e6).fit(np.concatenate([odds, odds]), sides, counts)
    scale, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if scale <= 0:
        return 1.0, 0.0
    with torch.no_grad():
        heads[-1].weight[classifier.toxic] *= scale
        heads[-1].bias[classifier.toxic] = heads[-1].bias[classifier.toxic] * scale + offset
    return scale, offset


def _finish(
    classifier: Classifier,
    dev: Labelled,
    dev_sentences: Sequence[str],
    run: Path,
    config: ScreenerConfig,
    test: Labelled | None,
) -> Path:
    """Calibrate, pick the thresholds, measure, and write the model and what was found."""
    given = classifier.judge(dev.texts).toxicity
    scale, offset = calibrate(classifier, given, dev.labels)
    scores = (torch.logit(given.double()) * scale + offset).sigmoid().float().numpy()
    labels = np.array(dev.labels)
    if config.recall:
        toxicity = recall_threshold(labels, scores, config.recall)
    else:
        toxicity = best_f1_threshold(labels, scores)
    drop, fluency = fluency_drop(classifier, dev_sentences, config.seed)
    thresholds = Thresholds(toxicity, config.similarity, drop)
    metrics = {"dev": classification_report(dev.labels, scores, dev.sources, toxicity), **fluency}
    metrics["calibration"] = {"scale": round(scale, 4), "offset": round(offset, 4)}
    if test:
        scores = classifier.judge(test.texts).toxicity.numpy()
        metrics["test"] = classification_report(test.labels, scores, test.sources, toxicity)
    out = run / "model"
    classifier.model.save_pretrained(out)
    classifier.tokenizer.save_pretrained(out)
    (out / "thresholds.json").write_text(json.dumps(asdict(thresholds), indent=2))
    record = {"kind": "screener", "config": asdict(config), "metrics": metrics}
    if (earlier := run_record(config.base)) is not None:
        record["base_run"] = earlier
    (run / "run.json").write_text(json.dumps(record, indent=2))
    return out


def fluency_drop(
    classifier: Classifier, sentences: Sequence[str], seed: int, catch: float = 0.65
) -> tuple[float, dict[str, Any]]:
    """The fall of fluency from a sentence to its broken copy that ``catch`` of all copies reach.

    Returns:
        that fall, kept within [0.05, 0.5], and what was measured.
    """
    rng = random.Random(seed)
    corruptor = Corruptor([w for s in sentences for w in words(s)])
    pairs = [(s, b) for s in sentences if (b := corruptor.corrupt(s, rng))]
    if not pairs:
        return 0.2, {}
    seen = classifier.judge([t for pair in pairs for t in pair]).fluency
    if seen is None:
        return 0.2, {}
    whole, broken = seen[::2].numpy(), seen[1::2].numpy()
    drop = float(np.clip(np.quantile(whole - broken, 1 - catch), 0.05, 0.5))
    labels = np.concatenate([np.ones_like(whole), np.zeros_like(broken)])
    report = classification_report(
        labels.astype(int).tolist(), np.concatenate([whole, broken]), ["fluency"] * len(labels), 0.5
    )
    return round(drop, 3), {"fluency": report["all"]}
