"""Drill: a real optimum-cli exports a screener, and optimum reads one of ours.

    python tests/drills/try_optimum.py build/optimum/bin/optimum-cli

The exported graph passes the proof of any export. The folder that our own exporter writes is then
loaded by ``ORTModelForSequenceClassification`` in optimum's environment; its logits are torch's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from toy_models import SENTENCES, write_screener_run

from sro_edge.export import ExportConfig, export_bundle
from sro_edge.export.runs import open_run
from sro_edge.export.screener_graph import load_screener

READ = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
folder, *texts = sys.argv[1:]
model = ORTModelForSequenceClassification.from_pretrained(folder)
tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
print(json.dumps(model(**tokens).logits.tolist()))
"""


def main() -> None:
    """Run the drill and print one line of figures."""
    cli = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as name:
        run, folder = Path(name, "run"), Path(name, "ours")
        write_screener_run(run)
        given = ExportConfig(exporter="optimum", optimum_cli=str(cli), screener_weights="fp32")
        proof = export_bundle(None, run, Path(name, "optimum"), given)
        export_bundle(None, run, folder, ExportConfig(screener_weights="fp32"))
        found = read_with_optimum(cli.with_name("python"), folder / "screener")
        expected = torch_logits(run)
    off = float(np.abs(found - expected).max())
    assert off < 1e-4, off
    print(
        f"optimum-cli's graph differs from torch by {proof['screener.graph']['value']:.1e}; "
        f"optimum reads our folder with logits off by {off:.1e}"
    )


def read_with_optimum(python: Path, folder: Path) -> np.ndarray:
    """Logits (N, L) of the sentences."""
    command = [str(python), "-c", READ, str(folder), *SENTENCES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def torch_logits(run: Path) -> np.ndarray:
    """Logits (N, L) of the sentences."""
    screener = load_screener(open_run(run, "screener"))
    rows = [screener.tokenizer.encode(text).ids for text in SENTENCES]
    with torch.inference_mode():
        logits = [screener.graph.model(torch.tensor([ids])).logits[0].numpy() for ids in rows]
    return np.stack(logits)


if __name__ == "__main__":
    main()
