"""The leader: a causal language model, its reference, and how a comment is put to it.

The reference of SRO is the policy before training. A new LoRA adapter changes nothing at first, so
the reference is the same model with the adapter disabled; otherwise it is a copy of the weights
that are trained, put in their place while the reference is asked.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sro_edge.errors import MissingExtraError, ModelError
from sro_edge.prompt import PromptTemplate
from sro_edge.training import processes
from sro_edge.training.config import SROConfig
from sro_edge.training.memory import bound_kernel_caches
from sro_edge.training.packing import (
    Group,
    Packed,
    answer_logprobs,
    keeps_to_branches,
    pack,
)
from sro_edge.training.precision import autocast, multiplies_bf16
from sro_edge.training.rollout import Prompter, decodes
from sro_edge.training.templates import adapt_tokenizer

LORA_FROM = 50_000_000  # parameters from which LoRA is the default
_WARM_UP = 10  # steps in which the learning rate rises to its value


class Policy:
    """The leader with its reference.

    Args:
        base: folder or hub name of a decoder-only causal language model, or of a LoRA adapter.
        config: LoRA or full fine-tuning, and in which precision.

    Raises:
        ModelError: it cannot be loaded, is an encoder-decoder model, or cannot be trained so.
    """

    def __init__(self, base: str | Path, config: SROConfig) -> None:
        bound_kernel_caches()
        self.base = str(base)
        adapter = Path(base) / "adapter_config.json"
        origin = adapter_base(adapter) if adapter.is_file() else self.base
        self.tokenizer = _load_tokenizer(self.base)
        device = processes.device()
        self.bf16 = multiplies_bf16(device) if config.bf16 is None else config.bf16
        shape = _load_shape(origin)
        self.lora = config.lora
        if self.lora is None:
            self.lora = config.four_bit or adapter.is_file() or _is_large(shape)
        # Weights that are trained stay in fp32.
        half = self.lora and self.bf16 and not config.four_bit
        model = _load_model(origin, config, torch.bfloat16 if half else torch.float32)
        self.template, added = adapt_tokenizer(self.tokenizer, model.generation_config, base)
        grow_embeddings(model, self.tokenizer)
        if device.type == "cpu":  # there the fused attention is slower on rows as short as these
            model.set_attn_implementation("eager")
        torch.manual_seed(config.seed)  # of the adapter's first weights
        if adapter.is_file():
            model = _open_adapter(model, adapter.parent, trained=self.lora)
        elif self.lora:
            model = _add_adapter(model, config, added)
        self.model: Any = model.to(device)
        model.train()
        _switch_off_dropout(model)
        _keep_differentiable(model)
        if half:
            _keep_input_precision(model)
        self.checkpoints = config.gradient_checkpointing
        if self.checkpoints is None:
            self.checkpoints = bool(self.lora) and device.type == "cpu" and _can_checkpoint(model)
        if self.checkpoints:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self._reference: list[torch.Tensor] | None = None
        if adapter.is_file() or not self.lora:
            self.freeze_reference()
        self.use_template(self.template)
        self.pass_tokens = config.micro_batch_tokens or self._fitting_tokens()
        with self.autocast():
            able = decodes(self.model, self.prompter.pad)
            self.trees = keeps_to_branches(self.model)
        if not able:
            raise ModelError(
                f"the policy {base} ({self.model.config.model_type}) cannot continue padded "
                "prompts from its cache as training needs it; give a model with attention, such as "
                "Llama, Qwen or Gemma"
            )
        self._window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        self.guesses = self.trees and not self._window
        self.learning_rate = config.learning_rate or (2e-4 if self.lora else 3e-5)

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over what is trained, without weight decay: the reference is the regulariser."""
        return torch.optim.AdamW(self.trained, lr=self.learning_rate, weight_decay=0.0, fused=True)

    def update(self, optimizer: torch.optim.Optimizer, step: int) -> tuple[float, float]:
        """Step ``step`` (from 0) by the gradients of all processes, which are then emptied.

        The gradients are clipped to a norm of 1, and the learning rate rises in the first steps.

        Returns:
            The gradients' norm before clipping, and the learning rate.
        """
        processes.average_gradients(self.trained)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, 1.0).item()
        rate = self.learning_rate * min(1.0, (step + 1) / _WARM_UP)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm, rate

    def use_template(self, template: PromptTemplate) -> None:
        """Ask with ``template``."""
        self.template = template
        self.prompter = Prompter(self.tokenizer, template)

    def freeze_reference(self) -> None:
        """Make the policy as it is now the reference."""
        self._reference = [p.detach().clone() for p in self.trained]

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the model is the reference."""
        if self._reference is None:
            with self.model.disable_adapter():
                yield
            return
        trained = self.trained
        own = [p.data for p in trained]
        try:
            for parameter, weights in zip(trained, self._reference, strict=True):
                parameter.data = weights
            yield
        finally:
            for parameter, weights in zip(trained, own, strict=True):
                parameter.data = weights

    def autocast(self) -> torch.autocast:
        """The precision the model computes in."""
        return autocast(self.model.device, self.bf16)

    def pack(self, groups: Sequence[Group]) -> Packed:
        """Prompts with their answers, as the model can take them."""
        return pack(groups, self.prompter.pad, shared=self._takes_trees(groups))

    def _fitting_tokens(self) -> int:
        """On a CPU a small model, whose weights are cast for every pass, gains by long ones."""
        if self.model.device.type != "cpu":
            return 4096
        if not self.lora:
            return 1024
        return 256 if self.checkpoints else 128

    def _takes_trees(self, groups: Sequence[Group]) -> bool:
        """Whether the model, given a mask of its own, keeps to it, and loses no window by it."""
        deepest = max(max(group.tree.positions) for group in groups)
        return self.trees and (not self._window or deepest < self._window)

    def logprobs(self, packed: Packed) -> torch.Tensor:
        """log pi(answer | prompt) of each answer, (R,), with gradient; dropout off."""
        with self.autocast():
            return answer_logprobs(self.model, packed)

    @torch.no_grad()
    def reference_logprobs(self, packed: Packed) -> torch.Tensor:
        """log pi_ref(answer | prompt) of each answer, (R,)."""
        with self.reference():
            return self.logprobs(packed)

    def folder(self, run: Path) -> Path:
        """Where :meth:`save` writes: ``run/adapter`` (LoRA) or ``run/model`` (full)."""
        return run / ("adapter" if self.lora else "model")

    def save(self, run: Path) -> Path:
        """Write the model or adapter, with tokenizer and template, and return its folder."""
        out = self.folder(run)
        # Rows of added tokens are part of the adapter; peft would save all embeddings as well.
        self.model.save_pretrained(out, **({"save_embedding_layers": False} if self.lora else {}))
        self.tokenizer.save_pretrained(out)
        (out / "prompt.json").write_text(json.dumps(self.template.to_dict(), indent=2))
        lexicon = Path(self.base) / "lexicon.json"
        if lexicon.is_file():
            (out / "lexicon.json").write_bytes(lexicon.read_bytes())
        return out


def grow_embeddings(model: Any, tokenizer: Any) -> None:
    """Give every token of ``tokenizer`` an embedding; new rows are the mean of the old ones."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= rows:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[rows:] = layer.weight[:rows].float().mean(0).to(layer.weight.dtype)


def adapter_base(file: Path) -> str:
    """Folder or hub name of the base of the adapter whose ``adapter_config.json`` is ``file``.

    A relative folder also counts from the run, the parent of the adapter's folder.

    Raises:
        ModelError: the file does not name one.
    """
    base = json.loads(file.read_text("utf-8")).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{file} does not name the adapter's base model")
    found = (f for f in (Path(base), file.parent.parent / base) if f.is_dir())
    return str(next(found, base))


def _load_tokenizer(base: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the policy {base} has no tokenizer that can be loaded ({_first_line(error)}); give a "
            "run folder, a Hugging Face folder, or a hub name and a network"
        ) from error


def _load_shape(base: str) -> Any:
    """The model's config."""
    with _loading(base):
        shape = AutoConfig.from_pretrained(base)
    if getattr(shape, "is_encoder_decoder", False):
        raise ModelError(
            f"the policy {base} is an encoder-decoder model ({shape.model_type}), but "
            "rewriting with GGUF needs a decoder-only one, such as Llama, Qwen or Gemma"
        )
    return shape


def _is_large(shape: Any) -> bool:
    """Whether LoRA is the default; a model of another kind is refused when it is loaded."""
    try:
        with torch.device("meta"):
            return bool(AutoModelForCausalLM.from_config(shape).num_parameters() >= LORA_FROM)
    except ValueError:
        return False


def _load_model(base: str, config: SROConfig, dtype: torch.dtype) -> Any:
    options = {"quantization_config": _four_bit(config)} if config.four_bit else {}
    with _loading(base):
        return AutoModelForCausalLM.from_pretrained(
            base, use_safetensors=True, dtype=dtype, **options
        )


@contextmanager
def _loading(base: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the policy {base} cannot be loaded as a decoder-only language model with safetensors "
            f"weights ({_first_line(error)}); give another model"
        ) from error


def _four_bit(config: SROConfig) -> Any:
    """NF4 with double quantisation, as QLoRA (Dettmers et al. 2023)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("--four-bit", "four-bit", "bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32 if config.bf16 is False else torch.bfloat16,
    )


def _add_adapter(model: Any, config: SROConfig, added: list[int]) -> Any:
    """A new LoRA adapter; of ``added`` tokens it trains the embeddings as well."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    targets: Any = [t.strip() for t in config.lora_targets.split(",")]
    layers = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    embeddings = [name for name, module in model.named_modules() if id(module) in layers]
    try:
        return get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=config.lora_rank,
                lora_alpha=config.lora_alpha or 2 * config.lora_rank,
                target_modules=targets[0] if targets == ["all-linear"] else targets,
                fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
                trainable_token_indices=dict.fromkeys(embeddings, added) if added else None,
            ),
        )
    except ValueError as error:
        raise ModelError(
            f"--lora-targets {config.lora_targets!r} do not fit this model: {_first_line(error)}"
        ) from error


def _open_adapter(model: Any, folder: Path, *, trained: bool) -> Any:
    """The adapter in ``folder`` on top of its base: to be trained on, or merged into it."""
    from peft import PeftModel

    found = PeftModel.from_pretrained(model, folder, is_trainable=trained)
    return found if trained else found.merge_and_unload()


def _keep_input_precision(model: Any) -> None:
    """Keep peft from copying each adapter's input to fp32 for backward: autocast sees to it."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def _can_checkpoint(model: Any) -> bool:
    own = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bool(own.supports_gradient_checkpointing)


def _switch_off_dropout(model: Any) -> None:
    """Nothing random may stand between policy and reference: r is 0 before the first step."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _keep_differentiable(model: Any) -> None:
    """Keep bitsandbytes, on a CPU, from repacking 4-bit weights in a rollout: no gradient then."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
