"""Clean sentences of general text that a screener takes for toxic, for it to learn from.

The clean side of labelled comments was often gathered with a word list, so "sex" or "kill" all but
proves toxicity in it. General text has such words where nobody is insulted. A logistic regression
of words (TF-IDF) learns just that shortcut: what it flags in general text is what the labelled
comments lack. A screener errs elsewhere, at odd names and short commands ("It's a trap!"): what it
flags although its words are harmless is what it has still to learn (hard negatives, Sung and Poggio
1998, doi 10.1109/34.655648).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sro_edge.training.piles import Labelled

SOURCE = "false alarms"
MOST_ASKED = 150_000  # sentences that a screener is asked about: a quarter of an hour on two cores
_FLAGGED, _HARMLESS = 0.5, 0.3  # so few of what the screener flags are insults

Scorer = Callable[[Sequence[str]], npt.NDArray[np.floating[Any]]]  # N texts -> toxicity, (N,)


def false_alarms(labelled: Labelled, sentences: Sequence[str], most: int) -> list[str]:
    """The ``sentences`` that words alone call toxic, at most ``most``, the surest first.

    Args:
        labelled: comments from which the word counter learns.
        sentences: of general text, taken to be clean.
        most: how many at most.
    """
    found = list(dict.fromkeys(sentences))
    return _surest(found, _word_counter(labelled)(found), _FLAGGED, most)


def own_alarms(
    labelled: Labelled, sentences: Sequence[str], most: int, screener: Scorer, threshold: float
) -> list[str]:
    """The ``sentences`` that a screener flags and words alone call clean, the surest first.

    Args:
        labelled: comments from which the word counter learns.
        sentences: of general text, nearly all of it clean; of more than :data:`MOST_ASKED` the
            screener is asked about a sample.
        most: how many at most.
        screener: says how toxic texts are.
        threshold: above which it flags one.
    """
    found = list(dict.fromkeys(sentences))
    random.Random(0).shuffle(found)
    found = found[:MOST_ASKED]
    given = _word_counter(labelled)(found)
    harmless = [text for text, p in zip(found, given, strict=True) if p <= _HARMLESS]
    return _surest(harmless, screener(harmless) if harmless else given[:0], threshold, most)


def _word_counter(labelled: Labelled) -> Scorer:
    counter = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
        LogisticRegression(C=4.0, max_iter=200),
    )
    counter.fit(labelled.texts, labelled.labels)
    return lambda texts: counter.predict_proba(texts)[:, 1] if len(texts) else np.zeros(0)


def _surest(
    texts: Sequence[str], scores: npt.NDArray[np.floating[Any]], threshold: float, most: int
) -> list[str]:
    order = np.argsort(-scores, kind="stable")[:most]
    return [texts[i] for i in order.tolist() if scores[i] > threshold]
