"""The training commands: recipes fit their options, bad input gets a sentence."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from sro_edge.cli import main
from sro_edge.cli._training import build_config
from sro_edge.training.config import ScreenerConfig, SROConfig, WarmStartConfig
from sro_edge.training.piles import fold
from sro_edge.training.warm_start import Piles

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(file for file in FOLDER.glob("*.toml") if file.name != "contrasts.toml")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_recipes_name_only_real_settings(recipe: Path) -> None:
    for command, section in tomllib.loads(recipe.read_text("utf-8")).items():
        found = main.get_command(click.Context(main), command)
        assert found is not None, command
        assert section.keys() <= {p.name for p in found.params}


@pytest.mark.parametrize("kind", [ScreenerConfig, SROConfig, WarmStartConfig])
def test_every_setting_is_explained(kind: type) -> None:
    assert all(f.metadata["help"] for f in dataclasses.fields(kind))


def test_a_recipe_sets_defaults_and_flags_win(tmp_path: Path) -> None:
    recipe, run = tmp_path / "r.toml", tmp_path / "run"
    (tmp_path / "pile.jsonl").write_text('{"text": "x"}\n')
    run.mkdir()
    (run / "old").write_text("")
    pile = str(tmp_path / "pile.jsonl")
    recipe.write_text(f'[warm-start]\ntoxic = ["{pile}"]\nclean = ["{pile}"]\nout = "{run}"\n')
    runner = CliRunner()
    result = runner.invoke(main, ["warm-start", "--recipe", str(recipe)])
    assert result.exit_code == 1
    assert "is not empty: give --resume" in result.output
    result = runner.invoke(main, ["warm-start", "--recipe", str(recipe), "--heads", "3"])
    assert result.exit_code == 2
    assert "self.hidden_size=256 is no multiple of self.heads=3" in result.output


def test_a_warm_start_mines_only_the_folds_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sro_edge.training.encoder
    import sro_edge.training.warm_start

    seen = []

    def train(piles: Piles, run: Path, *_: Any, **__: Any) -> Path:
        seen.append(piles)
        run.mkdir(exist_ok=True)
        (run / "run.json").write_text("{}")
        return run

    monkeypatch.setattr(sro_edge.training.warm_start, "warm_start", train)
    monkeypatch.setattr(sro_edge.training.encoder, "Encoder", str)
    pile, mining, run = tmp_path / "pile.jsonl", tmp_path / "labelled.csv", tmp_path / "run"
    pile.write_text('{"text": "x"}\n')
    mining.write_text("text,label\n" + "".join(f"comment {n},{n % 2}\n" for n in range(200)))
    words = ["warm-start", "--toxic", str(pile), "--clean", str(pile), "-o", str(run)]
    words += ["--mining", str(mining), "--folds", "0.3", "1"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    mined = [*seen[0].mining[0], *seen[0].mining[1]]
    assert 110 < len(mined) < 170
    assert all(fold(text) >= 0.3 for text in mined)
    assert json.loads((run / "run.json").read_text())["folds"] == [0.3, 1.0]


def test_unknown_settings_of_a_recipe_are_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[train]\nstep = 3\n")
    result = CliRunner().invoke(main, ["train", "--recipe", str(recipe)])
    assert result.exit_code == 2
    assert "unknown settings: step" in result.output.replace("\n", " ")
    recipe.write_text("[train\n")
    assert CliRunner().invoke(main, ["train", "--recipe", str(recipe)]).exit_code == 2


def test_a_screener_needs_something_to_learn(tmp_path: Path) -> None:
    dev = tmp_path / "dev.csv"
    dev.write_text("text,label\na,1\n")
    result = CliRunner().invoke(main, ["train-screener", "--dev", str(dev)])
    assert result.exit_code == 2
    assert "give --train" in result.output


def test_bad_settings_are_usage_errors() -> None:
    with pytest.raises(click.UsageError, match="label_smoothing"):
        build_config(SROConfig, {"label_smoothing": 0.7})
