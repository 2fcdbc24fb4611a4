"""Clean sentences that a word counter takes for toxic, for a screener to learn from.

The clean side of labelled comments was often gathered with a word list, so "sex" or "kill" all but
proves toxicity in it. General text has such words where nobody is insulted. A logistic regression
of words (TF-IDF) learns just that shortcut: what it flags in general text is what the labelled
comments lack.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sro_edge.training.piles import Labelled

SOURCE = "false alarms"
_FLAGGED = 0.5


def false_alarms(labelled: Labelled, sentences: Sequence[str], most: int) -> list[str]:
    """The ``sentences`` that words alone call toxic, at most ``most``, the surest first.

    Args:
        labelled: comments from which the word counter learns.
        sentences: of general text, taken to be clean.
        most: how many at most.
    """
    counter = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
        LogisticRegression(C=4.0, max_iter=200),
    )
    counter.fit(labelled.texts, labelled.labels)
    found = list(dict.fromkeys(sentences))
    scores = counter.predict_proba(found)[:, 1] if found else np.zeros(0)
    order = np.argsort(-scores, kind="stable")[:most]
    return [found[i] for i in order.tolist() if scores[i] > _FLAGGED]
