"""A threshold keeps what was asked for, and its held-out figures are not those it was fitted to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from sro_edge.bundle import Bundle
from sro_edge.cli import main
from sro_edge.errors import InputError
from sro_edge.evaluation.calibration import calibrate, choose, is_flagged, quality, wilson

SAMPLES = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=60)
SHARES = st.floats(0.05, 1)


def arrays(sample: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([y for y, _ in sample]), np.array([s for _, s in sample])


@given(SAMPLES, SHARES)
def test_the_threshold_is_the_highest_with_that_recall(
    sample: list[tuple[bool, float]], recall: float
) -> None:
    labels, scores = arrays(sample)
    assume(labels.any())
    threshold = choose(labels, scores, recall, None)
    assert quality(labels, is_flagged(scores, threshold)).recall >= recall - 1e-9
    higher = is_flagged(scores, threshold + 3e-4)
    lost = labels & ~higher
    if lost.any() and scores[lost].max() < threshold:  # no score lies between the two
        assert quality(labels, higher).recall < recall


@given(SAMPLES, SHARES)
def test_the_threshold_has_that_precision_and_the_best_recall(
    sample: list[tuple[bool, float]], precision: float
) -> None:
    labels, scores = arrays([(y, round(s, 3)) for y, s in sample])
    assume(labels.any())
    at_all = [is_flagged(scores, t) for t in {*scores.round(4), 1.0}]
    possible = [quality(labels, f) for f in at_all if f.any()]
    good = [q for q in possible if q.precision >= precision]
    if not good:
        with pytest.raises(InputError, match="no threshold reaches a precision"):
            choose(labels, scores, None, precision)
        return
    found = quality(labels, is_flagged(scores, choose(labels, scores, None, precision)))
    assert found.precision >= precision
    assert found.recall == max(q.recall for q in good)


def test_figures_are_measured_on_comments_that_did_not_choose() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.3
    scores = np.clip(rng.normal(0.3 + 0.4 * labels, 0.2), 0, 1)
    texts = [f"comment {i}" for i in range(400)]
    found = calibrate(texts, labels.astype(int).tolist(), scores.tolist(), recall=0.9)
    assert found.sample.recall >= 0.9
    assert found.held_out.recall == pytest.approx(0.9, abs=0.06)
    assert found.held_out != found.sample
    low, high = found.recall_interval
    assert low < found.held_out.recall < high
    assert (found.rows, found.toxic) == (400, int(labels.sum()))
    assert found.to_dict()["recall_interval"] == [round(low, 4), round(high, 4)]


def test_too_small_a_sample_is_refused() -> None:
    with pytest.raises(InputError, match="has 5 toxic comments; label at least 30"):
        calibrate(["a"] * 50, [1] * 5 + [0] * 45, [0.5] * 50, recall=0.9)


def test_an_interval_of_shares() -> None:
    assert wilson(0, 0) == (0, 1)
    low, high = wilson(90, 100)
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)  # Newcombe 1998, method 3
    assert wilson(5, 5)[1] == 1


def test_the_command_writes_a_bundle_with_the_threshold(tmp_path: Path, bundle: Path) -> None:
    texts = [f"you are {a} and {b}" for a in ("stupid", "good") for b in range(40)]
    table = pa.table({"text": texts, "label": [1] * 40 + [0] * 40})
    pq.write_table(table, tmp_path / "sample.parquet")
    words = ["calibrate", tmp_path / "sample.parquet", "--recall", 0.9, "--bundle", bundle]
    result = CliRunner().invoke(main, [str(w) for w in [*words, "-o", tmp_path / "new"]])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["sample"]["recall"] >= 0.9
    opened = Bundle.load(tmp_path / "new")
    assert opened.thresholds.toxicity == found["threshold"]
    assert opened.scores["calibration"]["wanted"] == {"recall": 0.9}
    assert opened.digest != Bundle.load(bundle).digest


def test_the_command_wants_one_of_recall_and_precision(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["calibrate", "x.parquet"]).exit_code == 2
