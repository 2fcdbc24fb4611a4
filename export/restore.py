"""The way back: the models of a bundle as runs again, so that training can go on from them.

    OUT/policy        `train --policy`, `warm-start --init`, `export`
    OUT/screener      `train-screener --base`, `train --screener`, `export --screener`
    OUT/first-stage   `train-first-stage --init`, where the bundle has one

What was rounded when the bundle was written stays rounded: the runs say what the bundle says, which
is proven before they appear, not what was trained.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from sro_edge.bundle import Bundle
from sro_edge.errors import ExportError
from sro_edge.export.config import write_json
from sro_edge.export.figures import Figure, require
from sro_edge.export.merge import load_policy
from sro_edge.export.probes import AWKWARD, COMMENTS
from sro_edge.export.proof_gguf import prove_logits, prove_tokens
from sro_edge.export.proof_onnx import prove_screener
from sro_edge.export.quiet import quiet
from sro_edge.export.runs import open_run, read_object
from sro_edge.export.screener_graph import load_screener
from sro_edge.first_stage import GRAPH
from sro_edge.folders import new_folder
from sro_edge.manifest import DETOXIFIER, FIRST_STAGE, LEXICON, SCREENER
from sro_edge.training.first_stage import FirstStageNet, save, with_weights

_POLICY, _SCREENER, _STAGE = "policy", "screener", "first-stage"
# What a run of each is, where the bundle does not say how its part was trained.
_KINDS = {_POLICY: "sro", _SCREENER: "screener", _STAGE: "first-stage"}
_STORED = ("small", "fp32")  # weights of a screener that can be read back
_MODULE = "model."  # what the exported graph calls the classifier in it


def restore_bundle(
    bundle: Bundle,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Write the models of ``bundle`` as runs: see the module.

    Args:
        bundle: whose hashes were checked.
        out: the folder to make.
        overwrite: replace an earlier restoration.
        progress: called with the name of each step.

    Returns:
        the proof: figure -> meaning, value, bound.

    Raises:
        ExportError: a model cannot be read back, or what was read says something else.
        OutputError: ``out`` exists, or cannot be written.
    """
    figures: list[Figure] = []
    with quiet(), new_folder(out, overwrite=overwrite, is_ours=_is_restored) as (folder, _):
        progress("restoring the rewriter")
        figures += require(_restore_policy(bundle, folder / _POLICY))
        progress("restoring the screener")
        figures += require(_restore_screener(bundle, folder / _SCREENER))
        if FIRST_STAGE in bundle.files:
            progress("restoring the first stage")
            _restore_first_stage(bundle, folder / _STAGE)
    return {figure.key: figure.to_dict() for figure in figures}


def _restore_policy(bundle: Bundle, run: Path) -> list[Figure]:
    model_folder = run / "model"
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that nothing switches off
            read = AutoModelForCausalLM.from_pretrained(
                bundle.path, gguf_file=DETOXIFIER, dtype=torch.float32
            )
        tokenizer = _read_tokenizer(bundle, read.config.vocab_size)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ExportError(
            f"{bundle.path / DETOXIFIER} cannot be turned back into a model by transformers: "
            f"{error}; train from the model that it was made of"
        ) from error
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config)  # what was read cannot be saved
    model.load_state_dict(read.state_dict())
    model.save_pretrained(model_folder)
    tokenizer.save_pretrained(model_folder)
    write_json(model_folder / "prompt.json", bundle.prompt.to_dict())
    if lexicon := bundle.lexicon():
        write_json(model_folder / LEXICON, lexicon)
    _record(bundle, run, _POLICY)
    policy = load_policy(open_run(run, "policy"))
    gguf = bundle.path / DETOXIFIER
    return [*prove_tokens(policy, gguf, COMMENTS), *prove_logits(policy, {"stored": gguf})]


def _read_tokenizer(bundle: Bundle, tokens: int) -> PreTrainedTokenizerFast:
    """The GGUF's tokenizer, without the control tokens that transformers adds to the model's."""
    read = AutoTokenizer.from_pretrained(bundle.path, gguf_file=DETOXIFIER)
    table = json.loads(read.backend_tokenizer.to_str())
    table["added_tokens"] = [t for t in table["added_tokens"] if t["id"] < tokens]
    roles = {role: getattr(read, role) for role in ("bos_token", "eos_token", "pad_token")}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(table)),
        chat_template=read.chat_template,
        clean_up_tokenization_spaces=False,
        **{role: token for role, token in roles.items() if token is not None},
    )


def _restore_screener(bundle: Bundle, run: Path) -> list[Figure]:
    model_folder = run / "model"
    described = read_object(bundle.screener / "config.json") or {}
    if described.get("weights") not in _STORED:
        raise ExportError(
            f"{bundle.screener} stores its weights as {described.get('weights', 'unknown')}; only "
            f"{' and '.join(_STORED)} can be read back: train from the model that it was made of"
        )
    config = AutoConfig.for_model(**described)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    graph = onnx.load(bundle.path / SCREENER)
    named = {name.removeprefix(_MODULE): w for name, w in read_weights(graph).items()}
    own = model.state_dict()
    lacking = [n for n, w in own.items() if n not in named or named[n].shape != w.shape]
    if lacking:
        raise ExportError(
            f"{bundle.path / SCREENER} lacks {', '.join(lacking[:3])} of a "
            f"{type(model).__name__}: only screeners of `sro-edge export` can be read back"
        )
    model.load_state_dict({name: torch.tensor(named[name]) for name in own})
    model.save_pretrained(model_folder)
    AutoTokenizer.from_pretrained(bundle.screener).save_pretrained(model_folder)
    thresholds = bundle.thresholds.given()
    thresholds.pop("abstain", None)  # it belongs to a part that no run holds
    write_json(model_folder / "thresholds.json", thresholds)
    _record(bundle, run, _SCREENER)
    screener = load_screener(open_run(run, "screener"))
    texts = [*AWKWARD, *COMMENTS]
    return prove_screener(screener, graph, bundle.path / SCREENER, "fp32", texts).figures


def _restore_first_stage(bundle: Bundle, run: Path) -> None:
    named = read_weights(onnx.load(bundle.screener / GRAPH))
    run.mkdir()
    names = FirstStageNet(1, 1, 1).state_dict()  # the graph has constants, too
    save(with_weights({name: torch.tensor(named[name]) for name in names}), run)
    _record(bundle, run, _STAGE)


def read_weights(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    """The fp32 weights of a graph by the names that its modules give them.

    Rows stored as int8 (:func:`sro_edge.export.onnx_weights.store_rows`) are put together again.
    The exporter transposes the matrix of a linear layer and loses its name: that is told by the
    bias that is added to its product.
    """
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name in [name for name in values if name.endswith(".int8")]:
        whole = name.removesuffix(".int8")
        values[whole] = values[name].astype(np.float32) * values[f"{whole}.scale"]
    found = {name: w for name, w in values.items() if w.dtype == np.float32}
    products = {n.output[0]: n.input[1] for n in model.graph.node if n.op_type == "MatMul"}
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        matrices = [products[name] for name in node.input if products.get(name) in found]
        biases = [name for name in node.input if name in found and name.endswith(".bias")]
        if matrices and biases:
            found[biases[0].removesuffix("bias") + "weight"] = found[matrices[0]].T
    return found


def _record(bundle: Bundle, run: Path, part: str) -> None:
    """``run.json``: how the part was trained, and of which bundle it was restored."""
    trained = bundle.training.get(part.replace("-", "_")) or {}
    origin = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest}
    write_json(run / "run.json", {"kind": _KINDS[part]} | trained | {"restored": origin})


def _is_restored(folder: Path) -> bool:
    """Whether :func:`restore_bundle` wrote ``folder``, so that another may replace it."""
    return "restored" in (read_object(folder / _POLICY / "run.json") or {})
