"""The mean of the weights of several runs: what it is, what it keeps, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from sro_edge.cli import main


def make_run(folder: Path, value: float, *, rows: int = 2, words: str = "{}") -> Path:
    model = folder / "model"
    model.mkdir(parents=True)
    weights = {
        "a": torch.full((rows, 3), value),
        "b": torch.full((4,), value, dtype=torch.bfloat16),
    }
    save_file(weights, model / "model.safetensors")
    (model / "tokenizer.json").write_text(words)
    (model / "config.json").write_text("{}")
    record = {"kind": "sro", "base": folder.name, "before": {"J": 0.1}, "kept": {"J": 0.2}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def average(*runs: Path, out: Path) -> Result:
    return CliRunner().invoke(main, ["average", *map(str, runs), "-o", str(out)])


def test_the_mean_is_a_run_of_its_own(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, value) for name, value in (("x", 1.0), ("y", 2.0), ("z", 6.0))
    ]
    result = average(*runs, out=tmp_path / "mean")
    assert result.exit_code == 0, result.output
    found = load_file(tmp_path / "mean/model/model.safetensors")
    assert found["a"].dtype == torch.float32
    assert found["b"].dtype == torch.bfloat16
    assert all((tensor == 3).all() for tensor in found.values())
    assert (tmp_path / "mean/model/config.json").is_file()
    # Figures are of one run's weights, so they are left out.
    assert json.loads((tmp_path / "mean/run.json").read_text()) == {
        "kind": "sro",
        "base": "x",
        "averaged": [{"kind": "sro", "base": "y"}, {"kind": "sro", "base": "z"}],
    }


@pytest.mark.parametrize(
    ("other", "reason"),
    [({"rows": 5}, "other names or shapes"), ({"words": "[]"}, "another tokenizer")],
)
def test_runs_that_do_not_fit_are_refused(
    tmp_path: Path, other: dict[str, Any], reason: str
) -> None:
    first = make_run(tmp_path / "x", 1)
    second = make_run(tmp_path / "y", 2, **other)
    result = average(first, second, out=tmp_path / "mean")
    assert result.exit_code == 1
    assert reason in result.output
    assert not (tmp_path / "mean").exists()


def test_what_is_no_run_or_stands_in_the_way_is_refused(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "x", 1), make_run(tmp_path / "y", 2)
    assert "one run has no mean" in average(first, out=tmp_path / "mean").output
    assert average(first, second, out=second).exit_code == 1
    (second / "run.json").unlink()
    assert "has no run.json" in average(first, second, out=tmp_path / "mean").output
    (first / "model/model.safetensors").write_bytes(b"no weights")
    (second / "run.json").write_text("{}")
    assert "cannot be averaged" in average(first, second, out=tmp_path / "mean").output
    assert not (tmp_path / "mean").exists()
