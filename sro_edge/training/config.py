"""Settings of the trainings, with the help text of each; light to import, for the CLI."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ScreenerConfig:
    """How a screener is fine-tuned; defaults are the default bundle's."""

    base: str = field(default="minilm", metadata={"help": "encoder: folder, hub name, or 'minilm'"})
    epochs: float = field(default=1.0, metadata={"help": "passes over the labelled comments"})
    batch_rows: int = field(default=48, metadata={"help": "rows a step"})
    max_length: int = field(default=96, metadata={"help": "tokens of a comment used in training"})
    learning_rate: float = field(default=8e-5, metadata={"help": "peak learning rate"})
    fluency_rows: float = field(
        default=0.5, metadata={"help": "fluency rows for each labelled row; 0 trains no fluency"}
    )
    fluency_weight: float = field(default=0.7, metadata={"help": "weight of the fluency loss"})
    distill_weight: float = field(
        default=2.0, metadata={"help": "weight of (1 - cosine) to the base encoder's embedding"}
    )
    freeze_embeddings: bool = field(default=True, metadata={"help": "keep the word embeddings"})
    retain: float = field(
        default=0.0,
        metadata={"help": "weight of what a screener --base says, but of corrections new to it"},
    )
    recall: float = field(
        default=0.0,
        metadata={"help": "share of toxic --dev comments above the threshold; 0: best F1"},
    )
    similarity: float = field(
        default=0.6, metadata={"help": "meaning floor written for the bundle"}
    )
    seed: int = field(default=0, metadata={"help": "of order, noise and initialisation"})

    def __post_init__(self) -> None:
        """Refuse a recall or a weight that is no share."""
        if not 0 <= self.recall < 1:
            raise ValueError(f"recall must lie in [0, 1), not at {self.recall}")
        if not 0 <= self.retain <= 1:
            raise ValueError(f"retain must lie in [0, 1], not at {self.retain}")


@dataclass(frozen=True)
class JudgesConfig:
    """How the offline judges are trained; defaults are those of ``recipes/judges.toml``."""

    base: str = field(default="minilm", metadata={"help": "encoder: folder, hub name, or 'minilm'"})
    epochs: float = field(default=0.5, metadata={"help": "passes over the labelled comments"})
    batch_rows: int = field(default=48, metadata={"help": "labelled comments a step"})
    max_length: int = field(default=96, metadata={"help": "tokens of a text used in training"})
    learning_rate: float = field(default=8e-5, metadata={"help": "of the toxicity judge, peak"})
    fluency_steps: int = field(default=600, metadata={"help": "steps of the fluency judge"})
    pairs: int = field(default=24, metadata={"help": "pairs of texts a step of it"})
    fluency_learning_rate: float = field(
        default=1.5e-4, metadata={"help": "of the fluency judge, peak"}
    )
    minimal_share: float = field(
        default=0.15, metadata={"help": "share of pairs from --minimal-pairs"}
    )
    rated_share: float = field(default=0.1, metadata={"help": "share of pairs from --rated"})
    accepted: float = field(
        default=0.88, metadata={"help": "share of --human texts that are fluent: sets the cut"}
    )
    seed: int = field(default=0, metadata={"help": "of order, noise and initialisation"})

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if min(self.fluency_steps, self.pairs, self.batch_rows) < 1:
            raise ValueError("fluency_steps, pairs and batch_rows must be at least 1")
        if not 0 <= self.minimal_share + self.rated_share < 1:
            raise ValueError(
                "minimal_share and rated_share must leave room for corrupted sentences: together "
                f"they are {self.minimal_share + self.rated_share}"
            )
        if not 0 < self.accepted < 1:
            raise ValueError(f"accepted must lie between 0 and 1, not at {self.accepted}")


@dataclass(frozen=True)
class WarmStartConfig:
    """Shape and schedule of a small rewriter; defaults are the default bundle's."""

    vocabulary: int = field(default=8192, metadata={"help": "tokens of the BPE tokenizer"})
    hidden_size: int = field(default=256, metadata={"help": "width of the model"})
    layers: int = field(default=6, metadata={"help": "depth of the model"})
    heads: int = field(default=4, metadata={"help": "attention heads"})
    feed_forward: int = field(default=704, metadata={"help": "width of the feed-forward layers"})
    max_length: int = field(default=128, metadata={"help": "longest prompt plus answer, tokens"})
    tokens: int = field(default=5_000_000, metadata={"help": "training tokens, prompts included"})
    batch_tokens: int = field(default=2560, metadata={"help": "tokens a step"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak learning rate"})
    weight_decay: float = field(default=0.05, metadata={"help": "decoupled weight decay"})
    optimizer: str = field(default="muon", metadata={"help": "muon (matrices only) or adamw"})
    neutral_share: float = field(
        default=0.35, metadata={"help": "share of targets from the clean pile; rest: plain text"}
    )
    odd_share: float = field(
        default=0.2, metadata={"help": "share of targets with an odd word, to learn copying"}
    )
    pairs_share: float = field(
        default=0.3, metadata={"help": "share of the examples that --pairs gives, if given"}
    )
    seed: int = field(default=0, metadata={"help": "of order, noise and initialisation"})

    def __post_init__(self) -> None:
        """Refuse shapes that no head divides."""
        if self.hidden_size % self.heads:
            raise ValueError(f"{self.hidden_size=} is no multiple of {self.heads=}")


@dataclass(frozen=True)
class SROConfig:
    """How a policy is trained against the follower."""

    steps: int = field(default=200, metadata={"help": "optimiser steps"})
    comments: int = field(default=16, metadata={"help": "comments a step"})
    samples: int = field(default=4, metadata={"help": "paraphrases sampled for each comment (K)"})
    temperature: float = field(default=1.0, metadata={"help": "of the sampled paraphrases"})
    max_new_tokens: int = field(default=96, metadata={"help": "longest paraphrase, tokens"})
    beta: float = field(default=0.1, metadata={"help": "inverse temperature of the reward"})
    label_smoothing: float = field(
        default=0.1, metadata={"help": "epsilon of the loss; keeps the fail term finite"}
    )
    length_normalised: bool = field(
        default=False,
        metadata={"help": "log-probabilities per token of the answer; beta is then some 10 times"},
    )
    learning_rate: float = field(default=0.0, metadata={"help": "0: 2e-4 with LoRA, 3e-5 without"})
    rpo_alpha: float = field(
        default=2.0, metadata={"help": "weight of the likelihood of passing samples, per token"}
    )
    full_preference: bool = field(
        default=False,
        metadata={"help": "where a comment has passing and failing samples, reject one of these"},
    )
    lora: bool | None = field(
        default=None,
        metadata={"help": "an adapter, or all weights; default: LoRA from 50 M parameters on"}
        | {"off": "full"},
    )
    lora_rank: int = field(default=16, metadata={"help": "rank of the adapter"})
    lora_alpha: int = field(default=0, metadata={"help": "scale of the adapter; 0: twice the rank"})
    lora_targets: str = field(
        default="all-linear", metadata={"help": "adapted layers: names with commas between them"}
    )
    four_bit: bool = field(
        default=False, metadata={"help": "4-bit base under the adapter (needs bitsandbytes)"}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "compute in bf16; default: where the processor can"}
    )
    micro_batch_tokens: int = field(
        default=0,
        metadata={
            "help": "tokens of a pass; fewer take less memory; 0: 4096, on a CPU 256 or 1024 (full)"
        },
    )
    gradient_checkpointing: bool | None = field(
        default=None,
        metadata={"help": "less memory, same results, slower; default: an adapter on a CPU"},
    )
    screener_flip_rate: float = field(
        default=0.0,
        metadata={"help": "share of verdicts turned round: the perturbation experiment"},
    )
    robust: bool = field(
        default=True,
        metadata={
            "help": "weigh verdicts so that wrong ones cancel out; off: 1 and 0, as published"
        },
    )
    screener_error: float = field(
        default=0.0,
        metadata={"help": "share of verdicts taken to be wrong at random, beside the flip rate"},
    )
    eval_every: int = field(default=25, metadata={"help": "steps between evaluations"})
    eval_comments: int = field(default=128, metadata={"help": "held-out comments of an evaluation"})
    pairs_epochs: float = field(
        default=1.0, metadata={"help": "passes over --pairs before SRO begins"}
    )
    patience: int = field(
        default=4,
        metadata={"help": "evaluations without a better J after which it stops; 0: never"},
    )
    checkpoint_seconds: float = field(
        default=120.0, metadata={"help": "seconds between checkpoints"}
    )
    seed: int = field(default=0, metadata={"help": "of order, noise and initialisation"})

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if min(self.steps, self.comments, self.samples, self.eval_every) < 1:
            raise ValueError("steps, comments, samples and eval_every must be at least 1")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), not {self.label_smoothing}")
        for name in ("screener_flip_rate", "screener_error"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"{name} must lie in [0, 0.5), not {getattr(self, name)}")
        if self.four_bit and self.lora is False:
            raise ValueError("four_bit freezes the base, so it cannot be trained in full")

    @property
    def verdict_error(self) -> float:
        """Share of verdicts that are wrong: one of the two errors happened, and not the other."""
        e, f = self.screener_error, self.screener_flip_rate
        return e + f - 2 * e * f


# Settings that change no loss, so that a run may go on with others.
FREE = tuple(
    f"config.{name}"
    for name in (
        "steps",
        "patience",
        "micro_batch_tokens",
        "gradient_checkpointing",
        "checkpoint_seconds",
    )
)


@dataclass(frozen=True)
class FirstStageConfig:
    """How the first stage of a screener is trained; defaults are the default bundle's."""

    base: str = field(
        default="minilm",
        metadata={"help": "the screener's base encoder, whose word vectors are begun with"},
    )
    width: int = field(default=128, metadata={"help": "columns of the embedding table"})
    channels: int = field(default=128, metadata={"help": "channels of the convolutions"})
    epochs: float = field(default=3.0, metadata={"help": "passes over the pieces"})
    batch_rows: int = field(default=128, metadata={"help": "pieces a step"})
    max_length: int = field(default=96, metadata={"help": "tokens of a piece used in training"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    toxic_weight: float = field(
        default=10.0, metadata={"help": "weight of a false clear against a needless second look"}
    )
    least_seen: int = field(
        default=1, metadata={"help": "occurrences below which a token is unknown: never cleared"}
    )
    seed: int = field(default=0, metadata={"help": "of pieces, order and initialisation"})


@dataclass(frozen=True)
class AbstainConfig:
    """How the decision to abstain is fitted; defaults are the default bundle's."""

    strength: float = field(
        default=2e-4, metadata={"help": "inverse of the regularisation, scikit-learn's C"}
    )
    max_length: int = field(default=128, metadata={"help": "tokens of a comment that are read"})
    folds: int = field(
        default=5, metadata={"help": "parts of the cross-validation that picks the threshold"}
    )
    held_out: float = field(
        default=0.2, metadata={"help": "share of the comments that is only reported on"}
    )
    given_up: float = field(
        default=0.005,
        metadata={"help": "largest share of the comments that can be reworded to be given up"},
    )
    seed: int = field(default=0, metadata={"help": "of the bootstrap intervals"})

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted."""
        if self.folds < 2 or self.strength <= 0:
            raise ValueError("folds must be at least 2, and strength above 0")
        for name in ("held_out", "given_up"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
