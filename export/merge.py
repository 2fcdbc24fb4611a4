"""The policy to export: loaded in fp32, a LoRA adapter merged into its base and checked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch

from sro_edge.errors import ExportError, ModelError
from sro_edge.export.figures import Figure
from sro_edge.export.gguf_vocabulary import explicit_spaces
from sro_edge.export.probes import PROMPTS
from sro_edge.export.runs import Run
from sro_edge.prompt import PromptTemplate
from sro_edge.training.policy import adapter_base, grow_embeddings
from sro_edge.training.templates import template_for
from sro_edge.training.tokens import tokenize_with

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "SmolLM3ForCausalLM": "smollm3",
    "Gemma3ForCausalLM": "gemma3",
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_MERGE_BOUND = 1e-3  # of logits; fp32 rounding stays far below it


@dataclass(frozen=True)
class Policy:
    """A policy ready for conversion.

    Args:
        model: a causal language model of one of :data:`ARCHITECTURES`, fp32, on the CPU.
        tokenizer: its transformers tokenizer.
        template: how a comment becomes a prompt.
        lexicon: toxic words with their log-odds; empty where training left none.
        base: name of the model it was tuned from; None where that is unknown.
        figures: the merge's proof; empty where there was nothing to merge.
    """

    model: Any
    tokenizer: Any
    template: PromptTemplate
    lexicon: dict[str, float]
    base: str | None
    figures: list[Figure]


def load_policy(run: Run, *, any_architecture: bool = False) -> Policy:
    """Load the policy of ``run``, without ever reading a pickle.

    Args:
        run: the policy's.
        any_architecture: take architectures beyond :data:`ARCHITECTURES` as well.

    Raises:
        ExportError: its architecture cannot be converted, or merging changed its answers.
        ModelError: the weights, the tokenizer, the adapter's base or a prompt template is missing.
    """
    from transformers import AutoTokenizer

    base = adapter_base(run.model / "adapter_config.json") if run.is_adapter else str(run.model)
    if run.is_adapter:
        _check_base_is_unchanged(run, base)
    model = _load_causal(base, any_architecture)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            run.model if (run.model / "tokenizer.json").is_file() else base
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{run.model} has no tokenizer that can be loaded: {error}") from error
    grow_embeddings(model, tokenizer)  # an adapter brings the rows of tokens that it added
    template = explicit_spaces(template_for(tokenizer, run.model), tokenize_with(tokenizer))
    figures = []
    if run.is_adapter:
        prompts = [template.encode(text, tokenize_with(tokenizer)) for text in PROMPTS]
        model, difference = merge_adapter(model, run.model, prompts)
        figures.append(
            Figure(
                "merge.logits",
                "largest logit difference, adapter and merged weights",
                difference,
                at_most=_MERGE_BOUND,
            )
        )
    return Policy(model, tokenizer, template, _lexicon(run, base), _base_name(run), figures)


def merge_adapter(base: Any, adapter: Path, prompts: list[list[int]]) -> tuple[Any, float]:
    """Merge a LoRA adapter into ``base``.

    Args:
        base: the model that the adapter was trained on; changed.
        adapter: folder with ``adapter_model.safetensors``.
        prompts: token ids to compare the answers on.

    Returns:
        the merged model, and the largest absolute difference of logits before and after merging.
    """
    from peft import PeftModel

    if not (adapter / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{adapter} has no adapter_model.safetensors; pickled adapters are not loaded, save it "
            "with safe_serialization=True"
        )
    try:
        tuned = PeftModel.from_pretrained(base, adapter).eval()
    except (RuntimeError, ValueError, KeyError) as error:  # other shapes, or other layers
        raise ModelError(
            f"the adapter in {adapter} does not fit {base.config.name_or_path}, which its "
            "adapter_config.json names as its base: it was trained on another model "
            f"({str(error).splitlines()[-1].strip()}); put that one back, or mend "
            "base_model_name_or_path"
        ) from error
    before = [_logits(tuned, ids) for ids in prompts]
    merged = tuned.merge_and_unload()
    after = [_logits(merged, ids) for ids in prompts]
    pairs = zip(before, after, strict=True)
    return merged, max(float((a - b).abs().max()) for a, b in pairs)


@torch.inference_mode()
def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0]  # (T, V)
    return logits


def _load_causal(base: str, any_architecture: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base)
        name = (config.architectures or ["unknown"])[0]
        if name not in ARCHITECTURES and not any_architecture:
            raise ExportError(
                f"{base} is a {name}, which cannot be written as GGUF here; supported are "
                f"{', '.join(ARCHITECTURES)}; for others name a llama.cpp checkout with "
                "--llama-cpp, whose converter is then used"
            )
        model, loading = AutoModelForCausalLM.from_pretrained(
            base,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{base} cannot be loaded as a causal language model with safetensors weights: {error}"
        ) from error
    if loading["missing_keys"]:
        raise ModelError(f"{base} is incomplete: it lacks {', '.join(loading['missing_keys'])}")
    return model.eval()


def _check_base_is_unchanged(run: Run, base: str) -> None:
    """An adapter of ours remembers the record of the run whose model it was trained on."""
    recorded = run.record.get("base_run")
    file = Path(base).parent / "run.json"
    if recorded is None or not file.is_file():
        return
    if json.loads(file.read_text("utf-8")) != recorded:
        raise ModelError(
            f"the adapter in {run.model} was trained on an earlier model than the one that is now "
            f"in {base}: its run.json has changed since; train again, or put the old model back"
        )


def _base_name(run: Run) -> str | None:
    """Hub name, or name of the folder or run, of the model that was tuned."""
    config = run.read_json("adapter_config.json") or {}
    base = config.get("base_model_name_or_path") or run.record.get("base")
    if not isinstance(base, str) or not base:
        return None
    if _HUB_NAME.fullmatch(base) and not Path(base).exists():
        return base
    parts = [part for part in PurePath(base).parts if part not in ("model", "/")]
    return parts[-1] if parts else None


def _lexicon(run: Run, base: str) -> dict[str, float]:
    """The lexicon beside the policy, or beside the base it was trained from."""
    for folder in (run.model, Path(base)):
        file = folder / "lexicon.json"
        if file.is_file():
            lexicon: dict[str, float] = json.loads(file.read_text("utf-8"))
            return lexicon
    return {}
