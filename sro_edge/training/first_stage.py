"""The first stage of a screener: a small net that clears what is surely clean.

It reads the screener's own token ids: an embedding table, two convolutions, the maximum and the
mean over the comment. It imitates the screener (distillation, Hinton et al. 2015, arXiv 1503.02531)
without labels. What it gets wrong on the safe side costs time, on the other a missed comment, so a
false clear weighs more. A token that training never met raises the alarm whatever stands beside it:
what the stage does not know it does not clear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModel

from sro_edge.bundle import Bundle
from sro_edge.durable import write_json
from sro_edge.errors import ModelError
from sro_edge.first_stage import INPUTS
from sro_edge.manifest import sha256
from sro_edge.onnx_session import Piece, feeds, token_batches
from sro_edge.screener import Screener
from sro_edge.training.config import FirstStageConfig
from sro_edge.training.encoder import resolve
from sro_edge.training.imitation import ask
from sro_edge.training.operating_points import HeldOut, points
from sro_edge.training.runs import begin_run, digest, run_record

Floats = npt.NDArray[np.float32]

WEIGHTS = "model.safetensors"
_SPAN = 40  # batches that are sorted by length together
_LARGEST_BATCH = 16_384  # tokens, padding included, when only scores are wanted
_SPREAD = 0.25  # standard deviation of the word vectors at the start
_DEEPEST = 6.0  # log-odds from the threshold beyond which the screener's certainty is one


class FirstStageNet(torch.nn.Module):
    """Token ids -> a score in [0, 1]; the higher, the less surely clean.

    Args:
        words: rows of the embedding table.
        width: columns of it.
        channels: of the convolutions.
    """

    outputs = ("alarm",)

    def __init__(self, words: int, width: int, channels: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(words, width)
        self.first = torch.nn.Conv1d(width, channels, 3, padding=1)
        self.second = torch.nn.Conv1d(channels, channels, 3, padding=1)
        self.hidden = torch.nn.Linear(2 * channels, channels)
        self.last = torch.nn.Linear(channels, 1)
        self.register_buffer("unknown", torch.ones(words, 1))  # 1 where a token is

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Log-odds (B,) of ids and mask (B, T); padding changes nothing."""
        mask = attention_mask.unsqueeze(1).float()  # (B, 1, T)
        x = self.table(input_ids).transpose(1, 2) * mask  # (B, W, T)
        x = F.relu(self.first(x)) * mask  # (B, C, T)
        x = F.relu(self.second(x) + x) * mask
        mean = x.sum(2) / mask.sum(2).clamp_min(1)
        pooled = torch.cat([x.amax(2), mean], dim=1)  # (B, 2C)
        logits: torch.Tensor = self.last(F.relu(self.hidden(pooled))).squeeze(1)
        return logits

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The score (B,): 1 where a token is unknown."""
        alarm = F.embedding(input_ids, self.unknown).squeeze(2) * attention_mask  # (B, T)
        return (
            torch.maximum(torch.sigmoid(self.logits(input_ids, attention_mask)), alarm.amax(1)),
        )

    def round_matrices(self) -> None:
        """Round the rows of both matrices to the 127 steps that the exported file stores."""
        with torch.no_grad():
            for rows in (self.table.weight, self.hidden.weight):
                scale = rows.abs().amax(1, keepdim=True) / 127
                scale[scale == 0] = 1
                rows.copy_((rows / scale).round() * scale)


@dataclass(frozen=True)
class Texts:
    """What a first stage is fitted on.

    Args:
        learned: pieces of text (:func:`sro_edge.training.imitation.pieces`).
        held_out: texts of several kinds, by name, on which the operating points are picked.
    """

    learned: list[str]
    held_out: dict[str, list[str]]


def train_first_stage(
    texts: Texts,
    bundle: Path | None,
    run: Path,
    config: FirstStageConfig,
    *,
    init: Path | None = None,
    most_missed: float = 0.001,
    threads: int | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> None:
    """Fit a first stage to the screener of a bundle and write it to ``run``.

    What the screener said is kept in ``run``; a killed run goes on from there.

    Args:
        texts: to learn from, and held out.
        bundle: whose screener; None for the embedded one.
        run: folder of the scores, the weights and ``run.json``.
        config: how to train.
        init: run of an earlier first stage that goes on learning.
        most_missed: largest share of held-out toxic texts that may be cleared.
        threads: CPU threads of the screener.
        progress: called with metrics; ``piece`` counts those asked about and those learned.

    Raises:
        BundleError: the bundle cannot be opened.
        OutputError: ``run`` holds a run with other settings or texts.
        ModelError: the base encoder, or the earlier first stage, does not fit the screener.
    """
    opened = Bundle.load(bundle)
    screener = Screener(opened.screener, threads=threads, deobfuscate=False)
    identity = opened.files["screener/model.onnx"].sha256
    asked = {"screener": identity, "texts": digest(texts.learned), "config": asdict(config)}
    net = begin(screener.words, config) if init is None else go_on(init, screener.words, config)
    begin_run(run, asked | ({} if init is None else {"init": sha256(init / WEIGHTS)}))
    toxicity = ask(screener, texts.learned, run / "learned.f32", lambda n: progress({"piece": n}))
    encoded: list[list[int]] = [[] for _ in texts.learned]
    for number, ids in screener.pieces(texts.learned):
        encoded[number] = encoded[number] or ids
    kept = [i for i, ids in enumerate(encoded) if ids]
    fit(
        [encoded[i] for i in kept],
        toxicity[kept],
        opened.thresholds.toxicity,
        net,
        config,
        lambda m: progress(m | {"piece": len(encoded) + m["step"] * config.batch_rows}),
    )
    seeing = Screener(opened.screener, threads=threads)
    groups = {
        name: HeldOut(ask(seeing, some, run / f"{name}.f32"), alarms(net, seeing, some))
        for name, some in texts.held_out.items()
    }
    found = points(groups, opened.thresholds.toxicity, most_missed)
    record = {
        "screener": identity,
        "threshold": opened.thresholds.toxicity,
        "most_missed": most_missed,
        "learned": len(kept),
        "held_out": {name: len(some) for name, some in texts.held_out.items()},
        "points": [asdict(point) for point in found],
    }
    if init is not None:
        record["base_run"] = run_record(init)
    save(net, run)
    write_json(run / "run.json", {"kind": "first-stage", "config": asdict(config), **record})


def begin(words: int, config: FirstStageConfig) -> FirstStageNet:
    """A net for ``words`` tokens that begins with the base encoder's word vectors.

    Raises:
        ModelError: the encoder does not fit these tokens.
    """
    table = word_vectors(config.base, words, config.width)
    torch.manual_seed(config.seed)
    net = FirstStageNet(words, config.width, config.channels)
    with torch.no_grad():
        net.table.weight.copy_(torch.from_numpy(table))
    return net


def go_on(run: Path, words: int, config: FirstStageConfig) -> FirstStageNet:
    """The net of an earlier run, for ``words`` tokens.

    Raises:
        ModelError: there is none, or it was made for another tokenizer or has another size.
    """
    if not (run / WEIGHTS).is_file():
        raise ModelError(f"{run} holds no run of `sro-edge train-first-stage` to go on from")
    net = load(run / WEIGHTS)
    tokens, width = net.table.weight.shape
    channels = net.first.out_channels
    if (tokens, width, channels) != (words, config.width, config.channels):
        raise ModelError(
            f"the first stage of {run} has {tokens:,} tokens, a width of {width} and {channels} "
            f"channels, but {words:,}, {config.width} and {config.channels} are asked for: begin "
            "anew, without --init"
        )
    return net


def fit(
    rows: Sequence[Sequence[int]],
    toxicity: Floats,
    threshold: float,
    net: FirstStageNet,
    config: FirstStageConfig,
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> None:
    """Train a net to say of token ids what the screener says.

    The target is how likely the screener's log-odds lie above its threshold: σ(logit p − logit t).
    Its toxic side weighs ``config.toxic_weight`` times as much.

    Args:
        rows: token ids of N pieces.
        toxicity: (N,), the screener's, of each.
        threshold: highest toxicity that passes.
        net: what goes on learning.
        config: how to train.
        progress: called with the metrics of every logged step.
    """
    net.train()
    counts = np.bincount(np.concatenate([np.asarray(r) for r in rows]), minlength=len(net.unknown))
    net.unknown[torch.from_numpy(counts >= config.least_seen)] = 0
    odds = np.log(np.clip(toxicity, 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(toxicity, 1e-6, 1 - 1e-6))
    odds = np.clip(odds - math.log(threshold / (1 - threshold)), -_DEEPEST, _DEEPEST)
    targets = torch.sigmoid(torch.from_numpy(odds.astype(np.float32)))
    optimizer = torch.optim.Adam(net.parameters(), lr=config.learning_rate, fused=True)
    steps = math.ceil(config.epochs * len(rows) / config.batch_rows)
    for step, batch in enumerate(_batches(rows, config), 1):
        rate = config.learning_rate * min(1, step / (0.05 * steps), 1.02 - step / steps)
        optimizer.param_groups[0]["lr"] = rate
        ids, mask = _tensors([(i, list(rows[i][: config.max_length])) for i in batch])
        target = targets[torch.tensor(batch)]
        weight = target * config.toxic_weight + (1 - target)
        logits = net.logits(ids, mask)
        loss = F.binary_cross_entropy_with_logits(
            logits, target * config.toxic_weight / weight, weight
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps:
            progress({"step": step, "steps": steps, "loss": loss.item()})
        if step == steps:
            break
    net.round_matrices()
    net.eval()


def word_vectors(base: str, words: int, width: int) -> Floats:
    """The word vectors (V, W) of a base encoder in as many principal components.

    Raises:
        ModelError: the encoder has another vocabulary than the screener's tokenizer.
    """
    encoder = AutoModel.from_pretrained(resolve(base), use_safetensors=True)
    vectors = encoder.get_input_embeddings().weight.detach().double().numpy()
    # A table may be padded beyond the vocabulary.
    if len(vectors) < words or vectors.shape[1] < width:
        raise ModelError(
            f"{base} has {vectors.shape[0]:,} word vectors of {vectors.shape[1]}, but the "
            f"screener's tokenizer {words:,} words, and {width} columns were asked for: give the "
            "encoder that the screener was made of as --base, and no more columns than it has"
        )
    vectors = vectors[:words] - vectors[:words].mean(0)
    _, axes = np.linalg.eigh(vectors.T @ vectors)  # the largest last
    parts = vectors @ axes[:, : -width - 1 : -1]
    found: Floats = (parts * (_SPREAD / parts.std())).astype(np.float32)
    return found


def score(net: FirstStageNet, rows: Sequence[Sequence[int]]) -> Floats:
    """The net's score (N,) of each row of token ids."""
    scores = np.zeros(len(rows), dtype=np.float32)
    pieces = sorted(enumerate(map(list, rows)), key=lambda piece: len(piece[1]))
    for batch in token_batches(pieces, _LARGEST_BATCH):
        with torch.inference_mode():
            scores[[number for number, _ in batch]] = net(*_tensors(batch))[0].numpy()
    return scores


def alarms(net: FirstStageNet, screener: Screener, texts: Sequence[str]) -> Floats:
    """The net's score (N,) of texts: the highest of their windows, with and without disguise."""
    readings, owners = screener.readings(texts)
    found = list(screener.pieces(readings))
    alarm = np.full(len(texts), -1, dtype=np.float32)
    numbers = [owners[number] for number, _ in found]
    np.maximum.at(alarm, numbers, score(net, [ids for _, ids in found]))
    alarm[alarm < 0] = 1  # nothing to read: never cleared
    return alarm


def load(file: Path) -> FirstStageNet:
    """The net whose weights are in ``file``."""
    return with_weights(load_file(file))


def save(net: FirstStageNet, run: Path) -> None:
    """Write the net's weights into ``run``."""
    save_file({name: t.contiguous() for name, t in net.state_dict().items()}, run / WEIGHTS)


def with_weights(state: dict[str, torch.Tensor]) -> FirstStageNet:
    """The net of these weights, by name."""
    words, width = state["table.weight"].shape
    net = FirstStageNet(words, width, state["first.bias"].shape[0])
    net.load_state_dict(state)
    net.eval()
    return net


def _batches(rows: Sequence[Sequence[int]], config: FirstStageConfig) -> Iterator[list[int]]:
    """Endless batches of numbers of rows of like length."""
    rng = np.random.default_rng(config.seed)
    size = config.batch_rows
    while True:
        order = rng.permutation(len(rows)).tolist()
        for start in range(0, len(order), size * _SPAN):
            pool = sorted(order[start : start + size * _SPAN], key=lambda i: len(rows[i]))
            chunks = [pool[i : i + size] for i in range(0, len(pool), size)]
            for place in rng.permutation(len(chunks)):
                yield chunks[place]


def _tensors(batch: list[Piece]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (B, T)."""
    _, given = feeds(batch, 0)
    ids, mask = (torch.from_numpy(given[name]) for name in INPUTS)
    return ids, mask
