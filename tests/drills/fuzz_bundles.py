"""Drill: ten minutes of mutated bundles; each must be opened whole or refused in a sentence.

    python tests/drills/fuzz_bundles.py [--minutes M]

bundle.json, the packed file, and the headers of the GGUF and the ONNX file take turns. A finding is
an exception that is no sentence for the user, a file outside the bundle, or one that is not what
bundle.json lists; hypothesis prints the smallest input that gives it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings

sys.path.insert(0, str(Path(__file__).parent.parent))

from fuzzing import Fuzzer, mutated_bytes, mutated_json

EXAMPLES = 500  # of one kind in one turn


def main() -> None:
    """Run the drill and print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    end = time.monotonic() + 60 * parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = str(Path(name, "cache"))
        fuzzer, turn = Fuzzer(Path(name)), 0
        while time.monotonic() < end:
            for kind in fuzzer.opened:
                attack(fuzzer, kind, turn)
            turn += 1
    counts = (f"{k} {fuzzer.opened[k]}/{fuzzer.refused[k]}" for k in fuzzer.opened)
    print(f"bundles fuzzed, opened/refused: {', '.join(counts)}; no finding")


def attack(fuzzer: Fuzzer, kind: str, turn: int) -> None:
    """Try mutations of one kind of input, others than in every other turn."""
    data: bytes = getattr(fuzzer, kind)
    mutations = mutated_bytes(data)
    if kind == "manifest":
        mutations |= mutated_json(data)

    @seed(turn)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations)
    def check(mutation: bytes) -> None:
        getattr(fuzzer, f"try_{kind}")(mutation)

    check()


if __name__ == "__main__":
    main()
