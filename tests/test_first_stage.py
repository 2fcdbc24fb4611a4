"""The first stage: what it clears, what it may not, and what a run says of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tiny_models import write_bundle, write_first_stage, write_screener

from sro_edge.bundle import Bundle
from sro_edge.cli import main
from sro_edge.errors import BundleError
from sro_edge.first_stage import NOTES, FirstStage, load_first_stage
from sro_edge.manifest import SCREENER
from sro_edge.rewriter import Rewriter
from sro_edge.screener import Scores, Screener

THRESHOLD = 0.25


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A screener with a first stage."""
    write_screener(tmp_path / "screener")
    write_first_stage(tmp_path / "screener")
    return tmp_path / "screener"


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A bundle with a first stage."""
    write_bundle(tmp_path / "staged", first_stage=True)
    return tmp_path / "staged"


def stage_of(folder: Path, toxicity: float = THRESHOLD) -> FirstStage:
    return FirstStage(folder, toxicity, threads=1)


def score(folder: Path, texts: list[str], *, deobfuscate: bool = True) -> Scores:
    screener = Screener(folder, threads=1, device="cpu", deobfuscate=deobfuscate)
    return screener.score(texts, stage_of(folder))


def cleared(folder: Path, texts: list[str], *, deobfuscate: bool = True) -> list[bool]:
    found = score(folder, texts, deobfuscate=deobfuscate).cleared
    assert found is not None
    return list(found.tolist())


def test_it_clears_what_raises_no_alarm(folder: Path) -> None:
    texts = ["thanks my friend", "you idiot", "a bad idea", "", "thanks my friend"]
    assert cleared(folder, texts) == [True, False, False, False, True]
    assert cleared(folder, []) == []


@pytest.mark.parametrize("word", ["1d10t", "i d i o t", "idi\u200bot", "ｉｄｉｏｔ"])
def test_a_disguised_word_is_read_without_its_disguise(folder: Path, word: str) -> None:
    """As written these are unknown tokens, which this stage would clear."""
    text = f"you {word}"
    assert cleared(folder, [text], deobfuscate=False) == [True]
    assert cleared(folder, [text]) == [False]


def test_one_window_of_a_long_text_is_enough(folder: Path) -> None:
    clean = "thanks my friend. " * 60
    assert cleared(folder, [clean, clean + "you idiot."]) == [True, False]


def test_only_suspect_windows_of_a_long_text_are_screened(folder: Path) -> None:
    texts = [
        "thanks my friend. " * 60 + "you idiot.",
        "you idiot",
        "thanks my friend",
        "a bad idea",
    ]
    found = score(folder, texts)
    whole = Screener(folder, threads=1, device="cpu").score(texts)
    assert found.fluency is not None
    assert found.embedding is not None
    assert whole.fluency is not None
    assert np.isnan(found.fluency).tolist() == [True, False, True, False]
    assert np.isnan(found.embedding[:, 0]).tolist() == [True, False, True, False]
    assert np.isnan(found.toxicity).tolist() == [False, False, True, False]
    seen = [0, 1, 3]
    assert found.toxicity[seen] == pytest.approx(whole.toxicity[seen], abs=1e-6)
    assert found.fluency[[1, 3]] == pytest.approx(whole.fluency[[1, 3]], abs=1e-6)


def test_company_changes_nothing(folder: Path) -> None:
    texts = ["thanks " * n for n in range(1, 30)] + ["you idiot"]
    assert cleared(folder, texts) == [cleared(folder, [text])[0] for text in texts]


def test_a_lower_threshold_than_was_measured_has_no_first_stage(staged: Path) -> None:
    bundle = Bundle.load(staged)
    assert load_first_stage(bundle, 0.25, threads=1) is not None
    assert load_first_stage(bundle, 0.9, threads=1) is not None
    assert load_first_stage(bundle, 0.2, threads=1) is None


def test_the_hash_that_the_bundle_has_checked_is_enough(
    staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.load(staged)
    monkeypatch.delattr("sro_edge.first_stage.sha256")
    assert load_first_stage(bundle, THRESHOLD, threads=1) is not None
    other = dataclasses.replace(bundle.files[SCREENER], sha256="0" * 64)
    bundle = dataclasses.replace(bundle, files={**bundle.files, SCREENER: other})
    with pytest.raises(BundleError, match="imitates another screener"):
        load_first_stage(bundle, THRESHOLD, threads=1)


def test_the_point_for_the_highest_threshold_below_is_used(folder: Path) -> None:
    notes = json.loads((folder / NOTES).read_text())
    notes["points"] = [
        {**notes["points"][0], "toxicity": t, "alarm": a} for t, a in ((0.2, 0.1), (0.5, 0.9))
    ]
    (folder / NOTES).write_text(json.dumps(notes))
    assert [stage_of(folder, t).point.alarm for t in (0.2, 0.4, 0.5, 0.6)] == [0.1, 0.1, 0.9, 0.9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"screener": "0" * 64}, "imitates another screener"),
        ({"points": [{"toxicity": 0.5}]}, "is not usable"),
        ({"points": None}, "is not usable"),
    ],
)
def test_notes_that_do_not_fit_are_refused(
    folder: Path, change: dict[str, object], message: str
) -> None:
    notes = json.loads((folder / NOTES).read_text()) | change
    (folder / NOTES).write_text(json.dumps(notes))
    with pytest.raises(BundleError, match=message):
        stage_of(folder)


def test_an_alarm_that_no_stage_gives_is_refused(folder: Path) -> None:
    notes = json.loads((folder / NOTES).read_text())
    notes["points"][0]["alarm"] = 7
    (folder / NOTES).write_text(json.dumps(notes))
    with pytest.raises(BundleError, match="between 0 and 1"):
        stage_of(folder)


def test_cleared_comments_are_clean_without_a_score(staged: Path) -> None:
    texts = ["thanks my friend", "a bad idea", "you idiot", "you stupid"]
    with_it = list(Rewriter.load(staged, threads=1).rewrite(texts))
    without = list(Rewriter.load(staged, threads=1, cascade=False).rewrite(texts))
    assert [r.status for r in with_it[:2]] == ["clean", "clean"]
    assert with_it[0].toxicity_before is with_it[0].toxicity_after is None
    assert with_it[1:3] == without[1:3]  # what is not cleared is as it was
    assert with_it[3].status == "clean"  # missed, and nothing claims a score
    assert with_it[3].toxicity_before is None
    assert [r.toxicity_before is None for r in without] == [False] * 4


def test_settings_name_the_first_stage(staged: Path, bundle: Path) -> None:
    at = {"toxicity": 0.25, "alarm": 0.5}
    assert Rewriter.load(staged, threads=1).settings()["cascade"] == at
    assert Rewriter.load(staged, threads=1, cascade=False).settings()["cascade"] is None
    assert Rewriter.load(staged, threads=1, threshold=0.1).settings()["cascade"] is None
    assert Rewriter.load(bundle, threads=1).settings()["cascade"] is None


def screen(source: Path, output: Path, *more: str) -> str:
    result = CliRunner().invoke(main, ["screen", str(source), str(output), *more])
    return f"{result.exit_code} {result.output}"


def test_screen_says_what_was_cleared(staged: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    texts = ["thanks my friend", "a bad idea", "you idiot", None, " "]
    pq.write_table(pa.table({"text": texts}), source)
    assert screen(source, output, "--bundle", str(staged), "--quiet").startswith("0")
    table = pq.read_table(output)
    assert table["text_cleared"].to_pylist() == [True, False, False, None, None]
    scores = table["text_toxicity"].to_pylist()
    assert scores[0] is scores[3] is scores[4] is None
    assert scores[1] == pytest.approx(0.047, abs=0.001)
    assert table["text_fluency"].to_pylist()[0] is None
    note = json.loads(output.with_name("out.parquet.json").read_text())
    assert note["counts"] == {
        "rows": 5, "toxic": 1, "clean": 2, "rewritten": 0, "unresolved": 0, "empty": 2,
        "not_utf8": 0,
    }  # fmt: skip
    assert note["settings"]["cascade"] == {"toxicity": 0.25, "alarm": 0.5}
    every = tmp_path / "every.parquet"
    assert screen(source, every, "--bundle", str(staged), "--no-cascade").startswith("0")
    found = pq.read_table(every)
    assert "text_cleared" not in found.column_names
    assert found["text_toxicity"].to_pylist()[1:3] == scores[1:3]


def test_a_run_goes_on_only_as_it_began(
    staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sro_edge.dump import Progress, rewrite_dump

    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    texts = ["thanks my friend", "a bad idea", "you idiot", "what a bad friend"] * 3
    pq.write_table(pa.table({"text": texts}), source)

    def stop(state: Progress) -> None:
        if state.rows >= 4:
            raise KeyboardInterrupt

    on = Rewriter.load(staged, threads=1)
    off = Rewriter.load(staged, threads=1, cascade=False)
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, on, unit_rows=4, progress=stop)
    with pytest.raises(Exception, match="cascade"):
        rewrite_dump(source, output, off, unit_rows=4)
    summary = rewrite_dump(source, output, on, unit_rows=4)
    assert summary.resumed_rows == 4
    whole = tmp_path / "whole.parquet"
    rewrite_dump(source, whole, on, unit_rows=4)
    assert output.read_bytes() == whole.read_bytes()


def test_a_bundle_vouches_for_its_first_stage(staged: Path) -> None:
    assert "screener/first_stage.onnx" in Bundle.load(staged).files
    (staged / "screener" / "first_stage.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match="first_stage"):
        Bundle.load(staged)


def test_operating_points() -> None:
    pytest.importorskip("scipy")
    from sro_edge.training.operating_points import HeldOut, pick, upper_bound

    toxicity = np.array([0.9] * 10 + [0.1] * 10, np.float32)
    alarm = np.array([0.3, 0.5, *[0.9] * 8, *np.linspace(0.05, 0.5, 10)], np.float32)
    group = HeldOut(toxicity, alarm)
    none = pick({"a": group}, 0.5, 0.0)
    assert none.alarm == pytest.approx(0.29998, abs=1e-5)
    assert (none.toxic, none.missed, none.cleared) == (10, 0, 0.25)
    assert none.upper == pytest.approx(1 - 0.05**0.1)  # the rule of three, exactly
    one = pick({"a": group}, 0.5, 0.1)
    assert (one.alarm, one.missed) == (pytest.approx(0.49998, abs=1e-5), 1)
    # Each kind of text keeps the bound for itself: the stricter one decides.
    strict = HeldOut(toxicity, np.maximum(alarm - 0.2, 0))
    assert pick({"a": group, "b": strict}, 0.5, 0.1).alarm == pytest.approx(0.29998, abs=1e-5)
    assert pick({"a": HeldOut(toxicity * 0, alarm)}, 0.5, 0.1).alarm == 0
    assert upper_bound(4, 4) == 1


def test_a_net_learns_words_and_distrusts_what_it_has_not_met() -> None:
    torch = pytest.importorskip("torch")
    from sro_edge.training.config import FirstStageConfig
    from sro_edge.training.first_stage import FirstStageNet, fit, score

    rng = np.random.default_rng(0)
    rows = [[2, *rng.integers(4, 40, rng.integers(1, 9)).tolist(), 3] for _ in range(1500)]
    toxicity = np.array([0.95 if 7 in row else 0.02 for row in rows], np.float32)
    config = FirstStageConfig(epochs=6, channels=16, batch_rows=32, learning_rate=1e-2)
    torch.manual_seed(0)
    net = FirstStageNet(50, 8, config.channels)
    fit(rows, toxicity, 0.5, net, config)
    clean, toxic, unknown = score(net, [[2, 9, 10, 3], [2, 9, 7, 10, 3], [2, 9, 45, 3]])
    assert clean < 0.2
    assert toxic > 0.9
    assert unknown == 1
    alone = [score(net, [row])[0] for row in rows[:20]]
    assert score(net, rows[:20]) == pytest.approx(alone, abs=1e-5)
    # It goes on: another word is alarming, and what it met before it still knows.
    toxicity = np.array([0.95 if {7, 30} & set(row) else 0.02 for row in rows], np.float32)
    fit(rows, toxicity, 0.5, net, config)
    clean, toxic, new, unknown = score(
        net, [[2, 9, 10, 11, 3], [2, 9, 7, 10, 3], [2, 9, 30, 10, 3], [2, 9, 45, 3]]
    )
    assert clean < 0.2
    assert min(toxic, new) > 0.9
    assert unknown == 1
