"""The leader: a causal language model, its reference, and how a comment is put to it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sro_edge.errors import ModelError
from sro_edge.training.config import SROConfig
from sro_edge.training.objective import answer_logprobs
from sro_edge.training.rollout import Prompter
from sro_edge.training.templates import template_for

LORA_FROM = 50_000_000  # parameters from which LoRA is the default


class Policy:
    """The leader with its reference.

    Args:
        base: folder or hub name of a decoder-only causal language model.
        config: decides between LoRA and full fine-tuning.

    Raises:
        ModelError: an encoder-decoder model, or one without a prompt template.
    """

    def __init__(self, base: str | Path, config: SROConfig) -> None:
        self.base = str(base)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                base, use_safetensors=True, dtype=torch.float32
            )
        except ValueError as error:
            raise ModelError(
                f"{base} is no decoder-only causal language model, which rewriting with GGUF needs"
            ) from error
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.template = template_for(self.tokenizer, base)
        self.lora = config.lora
        if self.lora is None:
            self.lora = model.num_parameters() >= LORA_FROM
        self.frozen: Any = None
        if self.lora:
            from peft import LoraConfig, get_peft_model

            self.model: Any = get_peft_model(
                model,
                LoraConfig(
                    task_type="CAUSAL_LM",
                    r=config.lora_rank,
                    lora_alpha=2 * config.lora_rank,
                    target_modules="all-linear",
                ),
            )
        else:
            self.model = model
            self.frozen = copy.deepcopy(model).eval().requires_grad_(False)
        self.prompter = Prompter(self.tokenizer, self.template)
        self.learning_rate = config.learning_rate or (2e-4 if self.lora else 3e-5)

    def logprobs(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """log pi(answer | prompt) of each row, (B,), with gradient; dropout off."""
        return _logprobs(self.model, batch)

    @torch.no_grad()
    def reference_logprobs(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """log pi_ref(answer | prompt) of each row, (B,)."""
        if self.frozen is not None:
            return _logprobs(self.frozen, batch)
        with self.model.disable_adapter():
            return _logprobs(self.model, batch)

    def save(self, run: Path) -> Path:
        """Write ``run/adapter`` (LoRA) or ``run/model`` (full), with tokenizer and template."""
        out = run / ("adapter" if self.lora else "model")
        self.model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        (out / "prompt.json").write_text(json.dumps(self.template.to_dict(), indent=2))
        lexicon = Path(self.base) / "lexicon.json"
        if lexicon.is_file():
            (out / "lexicon.json").write_bytes(lexicon.read_bytes())
        return out


def _logprobs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    device = next(model.parameters()).device
    logits = model(
        input_ids=batch["input_ids"].to(device),
        attention_mask=batch["attention_mask"].to(device),
        use_cache=False,
    ).logits
    return answer_logprobs(logits, batch["labels"].to(device))
