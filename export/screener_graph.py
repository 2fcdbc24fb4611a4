"""The trained screener with the outputs that its ONNX graph gets."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from sro_edge.bundle import Thresholds
from sro_edge.errors import ExportError, ModelError
from sro_edge.export.runs import Run
from sro_edge.training.labels import is_multi_label, label_names, toxic_candidates

FLUENT_NAME = "fluent"
_MAX_TOKENS = 512
_DEFAULT_TOXICITY = 0.5  # threshold of a classifier that came without thresholds.json


class ScreenerGraph(torch.nn.Module):
    """What the ONNX graph computes.

    Args:
        model: a sequence classifier, in eval mode.
        toxic: index of the toxic label.
        fluent: index of the fluent label, or None.
        embeds: whether the mean of the last hidden states is a sentence embedding.
    """

    def __init__(self, model: Any, toxic: int, fluent: int | None, embeds: bool) -> None:
        super().__init__()
        self.model = model
        self.toxic, self.fluent, self.embeds = toxic, fluent, embeds
        self.sigmoid = is_multi_label(model.config)

    @property
    def outputs(self) -> list[str]:
        """Names of what :meth:`forward` returns."""
        return [*self.scores, "logits"]

    @property
    def scores(self) -> list[str]:
        """The outputs that screening reads; ``logits`` are there for other programs."""
        present = {"toxicity": True, "fluency": self.fluent is not None, "embedding": self.embeds}
        return [name for name, there in present.items() if there]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Scores of a batch.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 1 where there is a token.

        Returns:
            toxicity (B,); fluency (B,) and unit-norm embedding (B, d) where the model has them;
            logits (B, L) of all labels.
        """
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        probabilities = out.logits.sigmoid() if self.sigmoid else out.logits.softmax(-1)  # (B, L)
        found = [probabilities[:, self.toxic]]
        if self.fluent is not None:
            found.append(probabilities[:, self.fluent])
        if self.embeds:
            weights = attention_mask.unsqueeze(-1).to(out.logits.dtype)  # (B, T, 1)
            total = (out.hidden_states[-1] * weights).sum(1)  # (B, d)
            found.append(F.normalize(total / weights.sum(1).clamp_min(1e-6), dim=-1))
        return *found, out.logits


@dataclass(frozen=True)
class Screener:
    """A screener ready for conversion.

    Args:
        graph: the model with its outputs.
        tokenizer: a ``tokenizers.Tokenizer`` that neither truncates nor pads.
        thresholds: what a rewrite must reach.
        pad_token_id: the token that fills a batch.
        max_tokens: longest input, special tokens included.
    """

    graph: ScreenerGraph
    tokenizer: Any
    thresholds: Thresholds
    pad_token_id: int
    max_tokens: int


def load_screener(run: Run, toxic_label: str | None = None) -> Screener:
    """Load the screener of ``run``, without ever reading a pickle.

    Args:
        run: a screener run, or the folder of any sequence classifier.
        toxic_label: name of the toxic label, where it is not one that is known.

    Raises:
        ExportError: no label, or more than one, can be the toxic one; or unusable thresholds.
        ModelError: the weights or a fast tokenizer is missing, or they do not belong together.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            run.model,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(run.model)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{run.model} cannot be loaded as a sequence classifier with safetensors weights and "
            f"a tokenizer: {error}"
        ) from error
    if loading["missing_keys"]:
        raise ModelError(
            f"{run.model} is no trained classifier: it lacks {', '.join(loading['missing_keys'])}"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{run.model} has no tokenizer.json (a fast tokenizer), which is needed")
    _check_sound(model, tokenizer, str(run.model))
    core = copy.deepcopy(tokenizer.backend_tokenizer)
    core.no_truncation()
    core.no_padding()
    labels = label_names(model.config)
    fluent = labels.index(FLUENT_NAME) if FLUENT_NAME in labels else None
    graph = ScreenerGraph(
        model,
        find_toxic(labels, toxic_label),
        fluent if is_multi_label(model.config) else None,
        getattr(model.config, "sro_embedding", None) == "mean",
    )
    limits = (_MAX_TOKENS, tokenizer.model_max_length, _positions(model))
    pad = tokenizer.pad_token_id
    return Screener(graph.eval(), core, _thresholds(run), 0 if pad is None else pad, min(limits))


def _check_sound(model: Any, tokenizer: Any, where: str) -> None:
    """Refuse weights that are no numbers, and a tokenizer of another model."""
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ModelError(
                f"{where}: the weight {name} holds NaN or infinite numbers: the training run "
                "diverged; train again with a lower learning rate"
            )
    highest = max(tokenizer.get_vocab().values())
    rows = model.get_input_embeddings().num_embeddings
    if highest >= rows:
        raise ModelError(
            f"{where}: the tokenizer has token ids up to {highest}, the model only {rows} "
            "embeddings: they do not belong together"
        )


def find_toxic(labels: list[str], wanted: str | None) -> int:
    """Index of the toxic label: the one called ``wanted``, else the one with a known name.

    Raises:
        ExportError: not exactly one fits.
    """
    fitting = toxic_candidates(labels, wanted)
    if len(fitting) != 1:
        raise ExportError(
            f"which label of the screener means toxic? It has {', '.join(labels)}; "
            "name one with --toxic-label"
        )
    return fitting[0]


def _positions(model: Any) -> int:
    """Longest input that the position embeddings cover; RoBERTa counts from its padding on."""
    positions: int = model.config.max_position_embeddings
    embeddings = getattr(model.base_model, "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return positions if padding is None else positions - padding - 1


def _thresholds(run: Run) -> Thresholds:
    stored = run.read_json("thresholds.json")
    try:
        return Thresholds(**stored) if stored else Thresholds(_DEFAULT_TOXICITY)
    except (TypeError, ValueError) as error:
        raise ExportError(f"{run.model / 'thresholds.json'} is not usable: {error}") from error
