"""Which toxic comments no rewording can mend: those that people could not rewrite, and the others.

A linear probe (Alain & Bengio 2016, arXiv 1610.01644) of all layers of the screener's encoder: a
logistic regression on the mean and the maximum of each layer's hidden states. The encoder stays as
it is, so the exported graph has all its weights in common with the screener and adds little. The
threshold is picked by cross-validation; a part of the comments, by their hash, is only reported on.

Few of the comments that people were asked to reword are threats or plain hate, so a second probe
may learn these from contrasts (:mod:`sro_edge.training.contrasts`). The higher of both scores
counts. In one probe for both, the contrasts, which are easy, would spoil what is known of comments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

from sro_edge.abstention import OUTPUT
from sro_edge.durable import write_json
from sro_edge.errors import InputError, ModelError
from sro_edge.manifest import sha256
from sro_edge.signs import read_out
from sro_edge.training.abstention_figures import (
    Floats,
    Labels,
    measure,
    recall_point,
    strict_point,
)
from sro_edge.training.config import AbstainConfig
from sro_edge.training.contrasts import Contrast
from sro_edge.training.encoder import sorted_batches
from sro_edge.training.piles import fold, key, read_table
from sro_edge.training.runs import begin_run, digest, model_folder

Features = npt.NDArray[np.float32]

KIND = "abstain"
WEIGHTS = "probe.safetensors"
_FEWEST = 20  # comments of each kind, below which nothing can be learned or measured
_CHUNK = 512  # comments between two reports of progress
_STRENGTH_BESIDE = 1e-3  # inverse regularisation of the second probe: contrasts are easy
_CLEAN_COUNTS = 0.1  # of a clean contrast there: few such sentences are ever asked about
_LOWEST = -1e4  # stands where there is no token, below every hidden state


class Row(NamedTuple):
    """A toxic comment, and whether people found no way to reword it."""

    text: str
    refused: bool


class Direction(NamedTuple):
    """What a probe looks for: the weights (F,) of its features, and its bias."""

    weight: Floats
    bias: float


class _Beside(NamedTuple):
    """The contrasts: features (N, F), which are beyond rewording, and what each counts (N,)."""

    x: Features
    refused: Labels
    counts: Floats


class Probe(torch.nn.Module):
    """Token ids -> a score in [0, 1]: how surely no rewording can mend the comment.

    Args:
        encoder: of the screener, in eval mode.
        directions: what to look for; none while only features are read.
    """

    outputs = (OUTPUT,)

    def __init__(self, encoder: Any, directions: Sequence[Direction] = ()) -> None:
        super().__init__()
        self.encoder = encoder
        # No matrix: one of int8 steps would be too coarse for weights of such different sizes.
        self.weights = torch.nn.ParameterList(
            [torch.from_numpy(d.weight).float() for d in directions]
        )
        self.biases = [d.bias for d in directions]

    def features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Means, then maxima, of the L layers' hidden states (B, 2Ld), from (B, T) each."""
        out = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        mask = attention_mask.unsqueeze(-1).float()  # (B, T, 1)
        layers = out.hidden_states[1:]  # L times (B, T, d)
        means = [(h * mask).sum(1) / mask.sum(1).clamp_min(1) for h in layers]
        largest = [(h * mask + (1 - mask) * _LOWEST).amax(1) for h in layers]
        return torch.cat([*means, *largest], dim=1)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The score (B,) of ids and mask (B, T)."""
        features = self.features(input_ids, attention_mask)
        odds = [
            (features * weight).sum(1) + bias
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        return (torch.sigmoid(torch.stack(odds).amax(0)),)


def read_rows(paths: Iterable[str | Path], column: str, label: str, value: str) -> list[Row]:
    """The comments of Parquet, CSV, TSV or JSONL files; blank ones are left out.

    Args:
        paths: the files.
        column: text column.
        label: column that tells which comments nobody could reword.
        value: what it says of these, as text.

    Raises:
        InputError: a file cannot be read, lacks a column, or ``value`` stands nowhere.
    """
    rows: list[Row] = []
    found = set()
    for path in paths:
        table = read_table(path, [column, label])
        said = [str(given) for given in table[label].to_pylist()]
        found.update(said)
        rows += [
            Row(text, given == value)
            for text, given in zip(table[column].to_pylist(), said, strict=True)
            if isinstance(text, str) and text.strip()
        ]
    if value not in found:
        some = ", ".join(sorted(found)[:5])
        raise InputError(
            f"no comment has {value!r} in column {label!r}, which says {some}: name with --value "
            "what it says of comments that nobody could reword"
        )
    return rows


def train_abstain(
    rows: Sequence[Row],
    screener: str | Path,
    run: Path,
    config: AbstainConfig,
    *,
    made: Sequence[Contrast] = (),
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> None:
    """Fit the probe and write ``run/probe.safetensors`` and ``run/run.json``.

    Args:
        rows: toxic comments; of those that differ in space and case only, the first counts.
        screener: run or HF folder of the screener whose encoder is probed.
        run: folder of the result.
        config: how to fit.
        made: contrasts, which are learned from and never measured on.
        progress: called with metrics; ``comment`` counts those that were read.

    Raises:
        InputError: there are too few comments of a kind, or no contrast is beyond rewording.
        ModelError: the screener has no safetensors weights, or is no encoder with hidden states.
        OutputError: ``run`` holds a run with other settings or comments.
    """
    if made and not any(c.beyond_rewording for c in made):
        raise InputError(
            "none of the contrasts is beyond rewording: give a kind of them beyond_rewording = true"
        )
    rows = list({key(row.text): row for row in reversed(rows)}.values())[::-1]
    place = np.array([fold(row.text) for row in rows])
    refused = np.array([row.refused for row in rows], dtype=bool)
    learned, held_out = place >= config.held_out, place < config.held_out
    _check_enough(refused[learned], "learn from")
    _check_enough(refused[held_out], "report on")
    probe, tokenizer, identity = open_probe(screener)
    texts = digest(f"{row.refused:d}{row.text}" for row in rows)
    asked = {"screener": identity, "texts": texts, "config": asdict(config)}
    if made:
        asked["made"] = digest(f"{c.toxic:d}{c.beyond_rewording:d}{c.text}" for c in made)
    begin_run(run, asked)
    every = [row.text for row in rows] + [contrast.text for contrast in made]
    seen, of_made = np.split(
        read(probe, tokenizer, every, config.max_length, progress), [len(rows)]
    )
    beside = _beside(of_made, made)
    x, y = seen[learned], refused[learned]
    width = (1 - config.held_out) / config.folds
    parts = ((place[learned] - config.held_out) / width).astype(int).clip(max=config.folds - 1)
    scores = np.zeros(len(y))
    for part in range(config.folds):
        inside = parts == part
        scores[inside] = score(x[inside], fit(x[~inside], y[~inside], config.strength, beside))
    directions = fit(x, y, config.strength, beside)
    points = [strict_point(y, scores, config.given_up), recall_point(y, scores)]
    unseen = score(seen[held_out], directions)
    record = {
        "kind": KIND,
        "screener": identity,
        "config": asdict(config),
        "made": len(made),
        "threshold": points[0],
        "cross_validated": measure(y, scores, points, config.seed),
        "held_out": measure(refused[held_out], unseen, points, config.seed),
    }
    found = {
        f"{name}.{i}": torch.tensor(value, dtype=torch.float32)
        for i, direction in enumerate(directions)
        for name, value in direction._asdict().items()
    }
    save_file(found, run / WEIGHTS)
    write_json(run / "run.json", record)


def open_probe(screener: str | Path) -> tuple[Probe, Any, str]:
    """An unfitted probe, its tokenizer, and the SHA-256 of the screener's weights.

    Raises:
        ModelError: see :func:`train_abstain`.
    """
    folder = Path(model_folder(screener))
    try:
        encoder = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, attn_implementation="eager"
        )
        return (
            Probe(encoder.eval()).eval(),
            AutoTokenizer.from_pretrained(folder),
            sha256(folder / "model.safetensors"),
        )
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{screener} cannot be probed: give the folder of a screener (a run of `sro-edge "
            f"train-screener`, or an encoder with model.safetensors and a tokenizer): {error}"
        ) from error


def load(run: Path, screener: str | Path) -> tuple[Probe, str]:
    """The fitted probe of a run, and the SHA-256 of the screener's weights."""
    unfitted, _, identity = open_probe(screener)
    stored = load_file(run / WEIGHTS)
    if "weight.0" not in stored:
        raise ModelError(f"{run} was fitted by an earlier version: run train-abstain again")
    directions = [
        Direction(stored[f"weight.{i}"].numpy(), stored[f"bias.{i}"].item())
        for i in range(len(stored) // 2)
    ]
    return Probe(unfitted.encoder, directions).eval(), identity


@torch.inference_mode()
def read(
    probe: Probe,
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int,
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> Features:
    """The features (N, F) of texts."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    probe.to(device)
    config = probe.encoder.config
    width = 2 * config.num_hidden_layers * config.hidden_size
    found = np.zeros((len(texts), width), dtype=np.float32)
    for start in range(0, len(texts), _CHUNK):
        chunk = list(map(read_out, texts[start : start + _CHUNK]))
        for rows, encoded in sorted_batches(tokenizer, chunk, max_length=max_length, device=device):
            inputs = (encoded["input_ids"], encoded["attention_mask"])
            found[[start + row for row in rows]] = probe.features(*inputs).cpu().numpy()
        progress({"comment": start + len(chunk)})
    return found


def fit(x: Features, y: Labels, strength: float, beside: _Beside | None = None) -> list[Direction]:
    """What parts refused comments from others: of features (N, F) and labels (N,).

    Args:
        x: features of comments.
        y: which of them people could not reword.
        strength: inverse of the regularisation.
        beside: contrasts, for a second direction: to those beyond rewording, from the other ones
            and the comments that can be reworded.
    """
    found = [_regress(x, y, np.ones(len(y)), strength)]
    if beside is not None:
        mendable = x[~y]
        counts = np.concatenate([np.ones(len(mendable)), beside.counts])
        labels = np.concatenate([np.zeros(len(mendable), dtype=bool), beside.refused])
        both = np.concatenate([mendable, beside.x])
        found.append(_regress(both, labels, counts, _STRENGTH_BESIDE))
    return found


def score(x: Features, directions: Sequence[Direction]) -> Floats:
    """Scores (N,) in [0, 1] of features (N, F)."""
    odds = np.max([x @ d.weight + d.bias for d in directions], axis=0)
    scores: Floats = 1 / (1 + np.exp(-odds))
    return scores


def _regress(x: Features, y: Labels, counts: Floats, strength: float) -> Direction:
    """A logistic regression on standardised features, in weights for the features as they are."""
    mean, spread = x.mean(0), x.std(0) + 1e-6
    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit((x - mean) / spread, y, sample_weight=counts)
    weight = (model.coef_[0] / spread).astype(np.float64)
    return Direction(weight, float(model.intercept_[0] - weight @ mean))


def _beside(x: Features, made: Sequence[Contrast]) -> _Beside | None:
    if not made:
        return None
    counts = np.array([1.0 if c.toxic else _CLEAN_COUNTS for c in made])
    return _Beside(x, np.array([c.beyond_rewording for c in made], dtype=bool), counts)


def _check_enough(refused: Labels, use: str) -> None:
    for name, count in (("no", int(refused.sum())), ("a", int((~refused).sum()))):
        if count < _FEWEST:
            raise InputError(
                f"there are {count} comments to {use} for which people found {name} rewording; "
                f"{_FEWEST} are the fewest: give more, or look at --label, --value and --held-out"
            )
