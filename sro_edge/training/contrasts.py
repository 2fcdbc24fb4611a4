"""Contrasts: sentences made of templates, each kind beside harmless ones of the same words.

Labelled comments teach a screener words: "kill", or the name of a group, comes to mean toxic, and a
threat without such a word passes. Templates that differ in just what makes a sentence a threat
teach the difference (contrast sets, Gardner et al. 2020, arXiv 2004.02709; used here to train).
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sro_edge.errors import InputError
from sro_edge.formats.base import reading
from sro_edge.guards import with_articles

SOURCE = "contrasts"
SLOT = re.compile(r"\{(\w+)\}")
_BRACES = re.compile(r"\{([^}]*)\}?")
_ENDINGS = ("", "", "", ".", ".", "!", "!!")
_OPENED = 0.25  # share of sentences that get an opening


class Contrast(NamedTuple):
    """One sentence.

    Args:
        text: the sentence.
        kind: what its templates are called.
        toxic: whether a screener should flag it.
        beyond_rewording: whether no rewording can mend it.
    """

    text: str
    kind: str
    toxic: bool
    beyond_rewording: bool


def read_contrasts(path: Path, most: int = 24, seed: int = 0) -> list[Contrast]:
    """The distinct sentences that a file's templates make.

    The file is TOML: ``[slots]`` with lists of words, and ``[[sentences]]`` with ``kind``,
    ``toxic``, ``templates`` and, where no rewording can mend them, ``beyond_rewording``; a list
    ``openings`` may stand before any sentence.

    Args:
        path: the file.
        most: sentences of one template; one without slots gives fewer.
        seed: of what fills the slots.

    Raises:
        InputError: the file cannot be read, or says something else.
    """
    try:
        with reading(path, "TOML"):
            given = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    _check(path, given)
    slots, openings = given.get("slots", {}), given.get("openings", [])
    rng = random.Random(seed)
    found: dict[str, Contrast] = {}
    for group in given["sentences"]:
        said = (group["kind"], group["toxic"], group.get("beyond_rewording", False))
        for template in group["templates"]:
            for _ in range(most):
                text = fill(template, slots, openings, rng)
                found.setdefault(text, Contrast(text, *said))
    return list(found.values())


def fill(
    template: str, slots: Mapping[str, Sequence[str]], openings: Sequence[str], rng: random.Random
) -> str:
    """A sentence of ``template``: slots filled, perhaps with an opening and a mark at the end."""
    text = with_articles(SLOT.sub(lambda slot: rng.choice(slots[slot[1]]), template))
    if openings and rng.random() < _OPENED:
        text = rng.choice(openings) + text
    return text + rng.choice(_ENDINGS)


def _check(path: Path, given: Mapping[str, Any]) -> None:
    """Refuse what is no file of contrasts."""
    slots, groups = given.get("slots", {}), given.get("sentences")
    if not isinstance(groups, list) or not groups:
        raise InputError(f"{path} has no [[sentences]] with kind, toxic and templates")
    if not isinstance(slots, dict) or not all(map(_is_texts, slots.values())):
        raise InputError(f"{path}: [slots] must name lists of words")
    if not _is_texts(given.get("openings", [""])):
        raise InputError(f"{path}: openings must be a list of texts")
    for number, group in enumerate(groups, 1):
        _check_group(f"{path}: [[sentences]] number {number}", group, slots)


def _check_group(place: str, group: Any, slots: Mapping[str, Sequence[str]]) -> None:
    toxic = group.get("toxic") if isinstance(group, dict) else None
    if not isinstance(toxic, bool) or not isinstance(group.get("kind"), str):
        raise InputError(f"{place} needs kind, a text, and toxic, true or false")
    if group.get("beyond_rewording", False) not in (False, toxic):
        raise InputError(f"{place}: beyond_rewording is true or false, and true only if toxic is")
    templates = group.get("templates")
    if not _is_texts(templates):
        raise InputError(f"{place} needs templates, a list of texts")
    for template in templates:
        for name in _BRACES.findall(template):
            if name not in slots:
                raise InputError(f"{place}: {template!r} wants {{{name}}}, which [slots] lacks")


def _is_texts(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(isinstance(t, str) for t in given)
