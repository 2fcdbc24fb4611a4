"""Drill: a screener with int8 kernels decides alike with and without VNNI.

    python tests/drills/without_vnni.py SCREENER_FOLDER [--threshold T] [--texts FILE]

ONNX Runtime has no switch that holds its kernels to AVX2, so the second run is emulated: the user
mode of QEMU (Debian: qemu-user-static) has AVX2 and nothing later.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# Imports no more than it needs: each module is emulated, too.
SCORE = """
import json, sys
import numpy, onnxruntime, tokenizers
folder, texts, most = sys.argv[1:]
tokenizer = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(folder + "/model.onnx", options)
names = {node.name for node in session.get_inputs()}
scores = []
for text in json.load(open(texts)):
    ids = numpy.array([tokenizer.encode(text).ids[: int(most)]])
    feeds = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
    feeds = {name: feeds[name] for name in names}
    scores.append(float(session.run(["toxicity"], feeds)[0][0]))
print(json.dumps(scores))
"""


def main() -> None:
    """Run the drill and print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--texts", type=Path, help="JSON list of comments [default: made up]")
    options = parser.parse_args()
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None:
        sys.exit("this drill needs qemu-x86_64 (Debian: apt install qemu-user-static)")
    texts = json.loads(options.texts.read_text("utf-8")) if options.texts else made_up()
    here = score(options.folder, texts, [])
    there = score(options.folder, texts, [emulator, "-cpu", "max"])
    turned = int(((here > options.threshold) != (there > options.threshold)).sum())
    print(
        f"{len(texts)} comments: scores differ by at most {np.abs(here - there).max():.1e} between "
        f"this CPU ({'VNNI' if has_vnni() else 'no VNNI'}) and AVX2; {turned} decisions differ"
    )
    sys.exit(turned > 0)


def made_up() -> list[str]:
    """Comments of the proof."""
    from sro_edge.export.probes import COMMENTS

    return list(COMMENTS)


def score(folder: Path, texts: list[str], before: list[str]) -> np.ndarray:
    """Toxicity (N,) of each text alone, by a process that is started with ``before``."""
    most = json.loads((folder / "config.json").read_text("utf-8"))["max_tokens"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        command = [*before, sys.executable, "-c", SCORE, str(folder), file.name, str(most)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def has_vnni() -> bool:
    """Whether this CPU has one of the two kinds of VNNI."""
    flags = Path("/proc/cpuinfo").read_text("ascii").split()
    return "avx512_vnni" in flags or "avx_vnni" in flags


if __name__ == "__main__":
    main()
