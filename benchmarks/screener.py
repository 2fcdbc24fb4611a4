"""How good is the screener of a bundle, beside a word counter and the encoder it starts from?

    python benchmarks/screener.py DATA [--bundle DIR] [--folds LOW HIGH] [--out result.json]

DATA is a folder with ``screener/{train,dev,test}.parquet`` and ``eval/screener_functional.parquet``
(HateCheck and HatemojiCheck). Three systems: TF-IDF of words and characters with logistic
regression; the frozen base encoder with logistic regression; the bundle's screener. The first two
learn from the labelled texts within ``--folds``, those of the screener's recipe. Each gets the
threshold of the best F1 on dev, as the bundle's was picked, and is reported on test: in all, by
source, at the threshold that flags 95 % of the toxic texts of dev, on functional cases that no
contrast can make (`functional.py`; those with emoji apart), on clean texts that mention a group of
people, and for what it may have learned of the data rather than of the language: its verdicts that
change with a text's letter case or spacing, and how it does where words of
``lexicon/profanity.parquet`` stand in clean texts and in no toxic one. The last line on stdout is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from functional import unseen_cases
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline, make_union

from sro_edge import signs
from sro_edge.bundle import default_path
from sro_edge.machine import describe_machine
from sro_edge.screener import Screener
from sro_edge.training.encoder import Encoder
from sro_edge.training.metrics import best_f1_threshold, classification_report, recall_threshold
from sro_edge.training.piles import Labelled, read_labelled

Floats = npt.NDArray[np.float64]
Scorer = Callable[[Sequence[str]], Floats]

RECALL = 0.95  # of dev: where all systems are compared as well
GROUPS = re.compile(
    r"\b(?:gays?|lesbians?|bisexuals?|queers?|homosexuals?|trans(?:gender)?|lgbtq?|women|woman"
    r"|girls?|females?|feminis(?:m|ts?)|muslims?|islam(?:ic)?|jews?|jewish|christians?|catholics?"
    r"|blacks?|african|asians?|chinese|mexicans?|latin[oa]s?|hispanics?|whites?|arabs?|indians?"
    r"|immigrants?|refugees?|disabled|disabilit(?:y|ies)|autis(?:m|tic)|deaf|blind)\b",
    re.IGNORECASE,
)


EMOJI = re.compile(f"[{signs.EMOJI}]")
# How the sources differ on the surface: some are lower case, some have words and marks set apart.
SURFACES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "upper case": str.upper,
    "tokenised": lambda text: re.sub(r"\s*([^\w\s])\s*", r" \1 ", text).strip(),
    "detokenised": lambda text: re.sub(r"\s+(?=[^\w\s])|(?<=\w )'\s+(?=\w)", "", text),
    "no full stop": lambda text: text.rstrip(" ."),
}


@dataclass(frozen=True)
class Texts:
    """What is learned from, tuned on and reported on; ``listed`` finds a word of the word list."""

    train: Labelled
    dev: Labelled
    test: Labelled
    functional: list[dict[str, Any]]
    listed: re.Pattern[str]


def main() -> None:
    """Train the rivals, score everything, and print the table."""
    options = _options()
    data = options.data
    texts = Texts(
        read_labelled([data / "screener/train.parquet"]).within(tuple(options.folds)),
        read_labelled([data / "screener/dev.parquet"]),
        read_labelled([data / "screener/test.parquet"]),
        unseen_cases(data),
        _any_of(pq.read_table(data / "lexicon/profanity.parquet")["term"].to_pylist()),
    )
    folder = options.bundle or default_path()
    screener = Screener(folder / "screener", threads=options.threads, device="cpu")
    systems: dict[str, Scorer] = {
        "TF-IDF": _tfidf(texts.train),
        "base encoder": _base_encoder(texts.train, options.threads),
        "bundle": lambda t: screener.score(list(t)).toxicity.astype(np.float64),
    }
    rows = {name: measure(score, texts) for name, score in systems.items()}
    result = {
        "question": "how good is the screener",
        "machine": describe_machine(),
        "threads": options.threads,
        "bundle": json.loads((folder / "bundle.json").read_text("utf-8"))["version"],
        "rows": {
            "train": len(texts.train.texts),
            "dev": len(texts.dev.texts),
            "test": len(texts.test.texts),
            "functional": len(texts.functional),
        },
        "systems": rows,
    }
    _show(rows)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


def measure(score: Scorer, texts: Texts) -> dict[str, Any]:
    """The figures of one system; thresholds are picked on dev, all else is measured elsewhere."""
    dev, test = score(texts.dev.texts), score(texts.test.texts)
    labels, picked_on = np.array(texts.test.labels), np.array(texts.dev.labels)
    threshold = best_f1_threshold(picked_on, dev)
    flagged = test > threshold
    groups = np.array([bool(GROUPS.search(t)) for t in texts.test.texts])
    functional = score([case["text"] for case in texts.functional])
    return {
        "threshold": threshold,
        "test": classification_report(texts.test.labels, test, texts.test.sources, threshold),
        **_errors(flagged, labels, groups),
        "at_recall": _at_recall(picked_on, dev, labels, test, groups),
        "clean_naming_a_group": int(((labels == 0) & groups).sum()),
        "functional": _functional(texts.functional, functional > threshold),
        "emoji": _emoji(texts.functional, functional > threshold),
        "changed_by_surface": {
            name: _share((score([change(t) for t in texts.test.texts]) > threshold) != flagged)
            for name, change in SURFACES.items()
        },
        "word_list": _word_list(texts, labels, flagged),
    }


def _errors(
    flagged: npt.NDArray[np.bool_], labels: npt.NDArray[Any], groups: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Share of toxic, of clean, and of clean texts naming a group that are flagged."""
    return {
        "recall": _share(flagged[labels == 1]),
        "false_positives": _share(flagged[labels == 0]),
        "false_positives_naming_a_group": _share(flagged[(labels == 0) & groups]),
    }


def _at_recall(
    picked_on: npt.NDArray[Any],
    dev: Floats,
    labels: npt.NDArray[Any],
    test: Floats,
    groups: npt.NDArray[np.bool_],
) -> dict[str, float]:
    """Figures at the threshold that flags :data:`RECALL` of the toxic texts of dev."""
    threshold = recall_threshold(picked_on, dev, RECALL)
    flagged = test > threshold
    f1 = round(float(f1_score(labels, flagged)), 4)
    return {"threshold": threshold, "f1": f1, **_errors(flagged, labels, groups)}


def _word_list(
    texts: Texts, labels: npt.NDArray[Any], flagged: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Figures of clean and toxic texts, with a word of the list and without."""
    listed = np.array([bool(texts.listed.search(t)) for t in texts.test.texts])
    clean, toxic = labels == 0, labels == 1
    return {
        "clean_with": int((clean & listed).sum()),
        "false_positives_with": _share(flagged[clean & listed]),
        "false_positives_without": _share(flagged[clean & ~listed]),
        "toxic_without": int((toxic & ~listed).sum()),
        "recall_with": _share(flagged[toxic & listed]),
        "recall_without": _share(flagged[toxic & ~listed]),
    }


def _any_of(terms: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, terms))})\b", re.IGNORECASE)


def _functional(cases: list[dict[str, Any]], flagged: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Accuracy for each source and functionality; and of all."""
    right = flagged == np.array([case["label"] == 1 for case in cases])
    names = [f"{case['source']}/{case['functionality']}" for case in cases]
    table = {name: _share(right[[n == name for n in names]]) for name in sorted(set(names))}
    return {"all": _share(right), **table}


def _emoji(cases: list[dict[str, Any]], flagged: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Share of the functional cases with emoji that are flagged, hateful ones and others."""
    with_emoji = np.array([bool(EMOJI.search(case["text"])) for case in cases])
    hateful = np.array([case["label"] == 1 for case in cases])
    return {
        "cases": int(with_emoji.sum()),
        "recall": _share(flagged[with_emoji & hateful]),
        "false_positives": _share(flagged[with_emoji & ~hateful]),
    }


def _share(flags: npt.NDArray[np.bool_]) -> float:
    return round(float(flags.mean()), 4)


def _tfidf(train: Labelled) -> Scorer:
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=5, sublinear_tf=True),
    )
    model = make_pipeline(features, LogisticRegression(C=3, max_iter=200, solver="liblinear"))
    model.fit(train.texts, train.labels)
    return lambda texts: model.predict_proba(list(texts))[:, 1]


def _base_encoder(train: Labelled, threads: int) -> Scorer:
    import torch

    torch.set_num_threads(threads)
    encoder = Encoder()
    few = slice(0, None, max(1, len(train.texts) // 20_000))  # a linear layer needs no more
    model = LogisticRegression(C=10, max_iter=500)
    model.fit(encoder.embed(train.texts[few]).numpy(), train.labels[few])
    return lambda texts: model.predict_proba(encoder.embed(texts).numpy())[:, 1]


def _show(rows: dict[str, dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("system", "F1", "PR-AUC", "calibration error", "false positives"):
        table.add_column(name, justify="left" if name == "system" else "right")
    table.add_column("naming a group", justify="right")
    table.add_column("at 95 % recall", justify="right")
    table.add_column("functional", justify="right")
    for name, row in rows.items():
        figures = row["test"]["all"]
        cells = [figures["f1"], figures["pr_auc"], figures["calibration_error"]]
        cells += [row["false_positives"], row["false_positives_naming_a_group"]]
        cells += [row["at_recall"]["false_positives"]]
        table.add_row(name, *(f"{c:.3f}" for c in [*cells, row["functional"]["all"]]))
    Console(stderr=True, width=100).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--folds", type=float, nargs=2, default=(0.3, 1.0))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
