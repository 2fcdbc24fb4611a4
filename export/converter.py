"""GGUF by the converter of a llama.cpp checkout, for architectures that are not written here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sro_edge.errors import ExportError
from sro_edge.export.merge import Policy

SCRIPT = "convert_hf_to_gguf.py"


def check_checkout(checkout: Path) -> None:
    """Refuse a folder without the converter.

    Raises:
        ExportError: it is no llama.cpp checkout.
    """
    if not (checkout / SCRIPT).is_file():
        raise ExportError(
            f"{checkout} holds no {SCRIPT}: give the folder of a llama.cpp checkout "
            "(git clone https://github.com/ggml-org/llama.cpp)"
        )


def run_converter(policy: Policy, checkout: Path, file: Path, work: Path) -> None:
    """Write the merged policy in fp32 to ``file``, in a process of its own.

    The converter runs under this Python, offline, and must find there what it imports.

    Args:
        policy: what to convert.
        checkout: folder of a llama.cpp checkout.
        file: where to.
        work: folder for the merged model, which the converter reads.

    Raises:
        ExportError: the converter failed; its last lines are shown.
    """
    merged = work / "merged"
    policy.model.save_pretrained(merged)
    policy.tokenizer.save_pretrained(merged)
    command = [sys.executable, str(checkout.absolute() / SCRIPT), str(merged)]
    done = subprocess.run(
        [*command, "--outfile", str(file), "--outtype", "f32"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0 or not file.is_file():
        said = " / ".join(done.stderr.strip().splitlines()[-3:]) or "it said nothing"
        raise ExportError(
            f"{SCRIPT} of {checkout} failed (exit code {done.returncode}): {said}; try another "
            "llama.cpp version, or another model"
        )
