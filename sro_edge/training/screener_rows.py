"""What a screener learns from: labelled comments, and whole and broken sentences."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sro_edge.segments import words
from sro_edge.training.config import ScreenerConfig
from sro_edge.training.contrasts import SOURCE as CONTRASTS
from sro_edge.training.corruption import SCREENER_MIX, Corruptor
from sro_edge.training.false_alarms import SOURCE as FALSE_ALARMS
from sro_edge.training.piles import Labelled, clean_sentences, fold

UNKNOWN = -1.0  # label of an answer that a row does not train
_CORRECTIONS = (CONTRASTS, FALSE_ALARMS)


class Row(NamedTuple):
    """One text with its labels, :data:`UNKNOWN` where it has none, and whether it ``corrects`` what
    an earlier screener says: it is made of a template, or was a false alarm."""

    text: str
    toxic: float
    fluent: float
    corrects: bool = False


def make_rows(
    train: Labelled,
    sentences: Sequence[str],
    config: ScreenerConfig,
    epoch: int,
    mix: Mapping[str, int] = SCREENER_MIX,
) -> list[Row]:
    """The shuffled rows of one epoch: labelled comments, and whole and broken sentences."""
    rng = random.Random(f"{config.seed}/{epoch}")
    rows = [Row(t, float(y), UNKNOWN, s in _CORRECTIONS) for t, y, s in zip(*train, strict=True)]
    wanted = int(config.fluency_rows * len(rows)) if sentences else 0
    vocabulary = [w for s in rng.sample(sentences, min(2000, len(sentences))) for w in words(s)]
    corruptor = Corruptor(vocabulary, mix)
    for _ in range(wanted):
        sentence = rng.choice(sentences)
        broken = corruptor.corrupt(sentence, rng) if rng.random() < 0.55 else None
        rows.append(Row(broken or sentence, UNKNOWN, 0.0 if broken else 1.0))
    rng.shuffle(rows)
    return rows


def batches(
    train: Labelled,
    sentences: Sequence[str],
    config: ScreenerConfig,
    mix: Mapping[str, int] = SCREENER_MIX,
    skip: int = 0,
) -> Iterator[list[Row]]:
    """Endless batches of rows of like length; deterministic, resumable by step."""
    epoch = 0
    while True:
        rows = make_rows(train, sentences, config, epoch, mix)
        epoch += 1
        span = config.batch_rows * 40
        for start in range(0, len(rows), span):
            pool = sorted(rows[start : start + span], key=lambda r: len(r.text))
            chunks = [
                pool[i : i + config.batch_rows] for i in range(0, len(pool), config.batch_rows)
            ]
            random.Random(f"{epoch}/{start}").shuffle(chunks)
            for chunk in chunks:
                if skip:
                    skip -= 1
                else:
                    yield chunk


def fluency_sentences(
    plain: Sequence[str],
    piles: Sequence[str],
    most: int,
    folds: tuple[float, float],
    held_out: float = 0.02,
) -> tuple[list[str], list[str]]:
    """Whole sentences for the fluency output: to learn from, and held out.

    Toxic comments take part, or fluency would become another word for clean; the piles count three
    times, for theirs is the register that is rewritten.

    Args:
        plain: general text, cut into sentences, of which ``most`` are taken.
        piles: comments.
        most: sentences taken from ``plain``.
        folds: shares of the hash between which a text is used.
        held_out: share of these kept for measuring.
    """
    sentences = list(clean_sentences(plain))
    random.Random(0).shuffle(sentences)
    comments = list(clean_sentences(piles, high=40))
    low, high = folds
    border = high - held_out * (high - low)
    mixed = [s for s in sentences[:most] + comments * 3 if low <= fold(s) < high]
    unseen = [s for s in dict.fromkeys(mixed) if fold(s) >= border]
    return [s for s in mixed if fold(s) < border], unseen[:1500]
