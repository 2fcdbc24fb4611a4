"""Contrasts: what templates make, what a bad file is told, and the project's own file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("torch")

from sro_edge.errors import InputError
from sro_edge.training.contrasts import read_contrasts

OWN = Path(__file__).parent.parent / "recipes/contrasts.toml"
SMALL = """
openings = ["hey, "]

[slots]
pest = ["rat", "ant"]

[[sentences]]
kind = "hate"
toxic = true
beyond_rewording = true
templates = ["he is a {pest}"]

[[sentences]]
kind = "clean"
toxic = false
templates = ["there is a {pest} in the {pest} trap"]
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "contrasts.toml"
    file.write_text(text, "utf-8")
    return file


def test_templates_are_filled_and_say_what_they_are(tmp_path: Path) -> None:
    found = read_contrasts(written(tmp_path, SMALL))
    plain = {c.text.removeprefix("hey, ").rstrip(".!"): c for c in found}
    assert set(plain) == {"he is a rat", "he is an ant"} | {
        f"there is {a} in the {b} trap" for a in ("a rat", "an ant") for b in ("rat", "ant")
    }
    assert {(c.kind, c.toxic, c.beyond_rewording) for c in found} == {
        ("hate", True, True),
        ("clean", False, False),
    }
    assert any(c.text.startswith("hey, ") for c in found)
    assert found == read_contrasts(tmp_path / "contrasts.toml")
    assert len(read_contrasts(tmp_path / "contrasts.toml", most=1)) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[slots", "not valid TOML"),
        ("[slots]\na = ['b']", "has no [[sentences]]"),
        ("[[sentences]]\nkind = 'x'\ntoxic = 1\ntemplates = ['a']", "number 1 needs kind, a text"),
        ("sentences = ['x']", "number 1 needs kind, a text"),
        ("[[sentences]]\nkind = 'x'\ntoxic = true\ntemplates = []", "needs templates"),
        (SMALL.replace("pest = ", "animal = "), "wants {pest}, which [slots] lacks"),
        (SMALL.replace("{pest} trap", "{my-pest} trap"), "wants {my-pest}"),
        (SMALL.replace('["rat", "ant"]', '"rat"'), "lists of words"),
        (SMALL.replace('["hey, "]', '"hey, "'), "openings must be a list"),
        (SMALL.replace("toxic = true", "toxic = false"), "true only if toxic is"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        read_contrasts(written(tmp_path, text))


def test_the_projects_own_file_weighs_both_sides_alike() -> None:
    found = read_contrasts(OWN)
    toxic = [c for c in found if c.toxic]
    assert 0.4 < len(toxic) / len(found) < 0.6
    beyond = {"threat", "veiled threat", "harm", "harassment", "hate"}
    assert {c.kind for c in toxic if c.beyond_rewording} == beyond
    assert {c.kind for c in toxic if not c.beyond_rewording} == {"insult", "slight", "slur"}
    openings = tuple(tomllib.loads(OWN.read_text("utf-8"))["openings"])

    def bare(text: str) -> str:
        opened = next((o for o in openings if text.startswith(o)), "")
        return text.removeprefix(opened).rstrip(".!")

    texts = {bare(c.text) for c in toxic}
    assert not [c for c in found if not c.toxic and bare(c.text) in texts]
