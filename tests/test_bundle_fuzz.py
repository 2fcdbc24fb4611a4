"""Mutated bundles are opened whole or refused in a sentence; ``make drills`` does it for longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzzing import Fuzzer, mutated_bytes, mutated_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS = settings(
    max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    root = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield Fuzzer(root)


@pytest.mark.parametrize("kind", ["manifest", "archive", "gguf", "onnx"])
def test_mutations_are_opened_whole_or_refused(kind: str, fuzzer: Fuzzer) -> None:
    data: bytes = getattr(fuzzer, kind)
    mutations = mutated_bytes(data)
    if kind == "manifest":
        mutations |= mutated_json(data)

    @SECONDS
    @given(st.just(data) | mutations)
    def check(mutation: bytes) -> None:
        getattr(fuzzer, f"try_{kind}")(mutation)

    check()
    assert fuzzer.opened[kind]
    assert fuzzer.refused[kind]
