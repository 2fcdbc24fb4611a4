"""Drill: ``kill -9`` an export at random moments; nothing may stand under the bundle's name.

    python tests/drills/kill_export.py [--kills N] [--seed N]

The models are toys, the export and its proof are real. Each killed export must leave an earlier
bundle of that name intact, or nothing; the last export runs to its end and must clear the debris.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from toy_models import SENTENCES, write_policy_run, write_screener_run

from sro_edge.bundle import Bundle

COMMAND = [sys.executable, "-c", "from sro_edge.cli import main; main()", "export"]


def main() -> None:
    """Run the drill and print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_policy_run(root / "policy")
        write_screener_run(root / "screener")
        (root / "probes.txt").write_text("\n".join(SENTENCES))
        out, began = root / "bundles" / "made", time.monotonic()
        export(root, out, None)
        seconds = time.monotonic() - began
        digest = Bundle.load(out).digest
        killed = [export(root, out, rng.uniform(0, seconds)) for _ in range(options.kills)]
        fresh = root / "bundles" / "fresh"
        killed += [export(root, fresh, rng.uniform(0, seconds)) for _ in range(options.kills)]
        assert Bundle.load(out).digest == digest
        export(root, fresh, None)
        assert Bundle.load(fresh).digest == digest
        left = sorted(f.name for f in out.parent.iterdir())
        assert set(left) <= {"made", "fresh", ".made.partial"}, left
    print(f"{sum(killed)} exports of {seconds:.0f} s killed, no bundle torn")


def export(root: Path, out: Path, kill_after: float | None) -> bool:
    """Run an export; whether it was killed. What then stands under the name must be whole."""
    out.parent.mkdir(exist_ok=True)
    words = [str(root / "policy"), "--screener", str(root / "screener"), "-o", str(out)]
    words += ["--probes", str(root / "probes.txt"), "--name", "toy", "--overwrite", "--quiet"]
    process = subprocess.Popen([*COMMAND, *words])
    try:
        process.wait(kill_after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if out.exists():
            Bundle.load(out)
        return True
    assert process.returncode == 0, process.returncode
    return False


if __name__ == "__main__":
    main()
