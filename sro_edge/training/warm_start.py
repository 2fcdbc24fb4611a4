"""A small rewriter from nothing: tokenizer and Llama-shaped model trained to undo toxic noise.

Denoising of clean text stands in for supervised fine-tuning where no pretrained model is at hand.
Only unpaired piles are used: targets are clean sentences, noise is mined from toxic ones.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sro_edge.prompt import SMALL_TEMPLATE, PromptTemplate
from sro_edge.training import checkpoint
from sro_edge.training.lexicon import analogues, mine_lexicon, word_vectors
from sro_edge.training.noise import ToxicNoise
from sro_edge.training.piles import clean_sentences, fold
from sro_edge.training.tokens import tokenize_with


@dataclass(frozen=True)
class WarmStartConfig:
    """Shape and schedule of a small rewriter; defaults are the default bundle's."""

    vocabulary: int = 8192
    hidden_size: int = 256
    layers: int = 6
    heads: int = 4
    feed_forward: int = 704
    max_length: int = field(default=128, metadata={"help": "longest prompt plus answer, tokens"})
    tokens: int = field(default=8_000_000, metadata={"help": "training tokens, prompts included"})
    batch_tokens: int = 2560
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    prompt_weight: float = field(
        default=0.15, metadata={"help": "weight of the loss on the noisy side (language modelling)"}
    )
    neutral_share: float = field(
        default=0.35, metadata={"help": "share of targets from the clean pile; rest: plain text"}
    )
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shapes that no head divides."""
        if self.hidden_size % self.heads:
            raise ValueError(f"{self.hidden_size=} is no multiple of {self.heads=}")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in the manner of GPT-2, on lower-cased ``texts``."""
    template = SMALL_TEMPLATE
    special = [template.prefix, "</s>", "<pad>", template.suffix]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        (template.lead + template.normalise(t) for t in texts),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[2],
        additional_special_tokens=[special[3]],
        clean_up_tokenization_spaces=False,
    )


def new_model(config: WarmStartConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A randomly initialised Llama of the configured shape, embeddings tied."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            intermediate_size=config.feed_forward,
            max_position_embeddings=512,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_noise(toxic: list[str], clean: list[str], plain: list[str]) -> ToxicNoise:
    """Mine lexicon and analogues from the piles; ``plain`` text sharpens the word contexts."""
    lexicon = mine_lexicon(toxic, clean)
    index, vectors = word_vectors([*toxic, *clean, *plain[:200_000]])
    return ToxicNoise(
        toxic, lexicon.toxic, analogues(list(lexicon.toxic), lexicon.clean, index, vectors)
    )


class Denoising:
    """Endless batches of (noised prompt, clean answer); deterministic, and resumable by step."""

    def __init__(
        self,
        noise: ToxicNoise,
        neutral: list[str],
        plain: list[str],
        tokenizer: PreTrainedTokenizerFast,
        config: WarmStartConfig,
        template: PromptTemplate = SMALL_TEMPLATE,
    ) -> None:
        self.noise, self.neutral, self.plain = noise, neutral, plain
        self.config, self.template, self.pad = config, template, tokenizer.pad_token_id
        self.eos, self.tokenize = tokenizer.eos_token_id, tokenize_with(tokenizer)

    def example(self, rng: random.Random) -> tuple[list[int], list[int]] | None:
        """(prompt ids, answer ids with end token), or None where it is too long."""
        pile = self.neutral if rng.random() < self.config.neutral_share else self.plain
        clean = rng.choice(pile)
        prompt = self.template.encode(self.noise.corrupt(clean, rng), self.tokenize)
        answer = [*self.template.encode_text(clean, self.tokenize), self.eos]
        return (prompt, answer) if len(prompt) + len(answer) <= self.config.max_length else None

    def batches(self, skip: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of about ``batch_tokens``, rows of like length together."""
        block = 0
        while True:
            rng = random.Random(f"{self.config.seed}/{block}")
            block += 1
            pool = [e for e in (self.example(rng) for _ in range(1536)) if e]
            pool.sort(key=lambda e: len(e[0]) + len(e[1]))
            rows: list[list[tuple[list[int], list[int]]]] = [[]]
            for e in pool:
                if (len(rows[-1]) + 1) * (len(e[0]) + len(e[1])) > self.config.batch_tokens:
                    rows.append([])
                rows[-1].append(e)
            rng.shuffle(rows)
            for row in rows:
                if skip:
                    skip -= 1
                else:
                    yield self.collate(row)

    def collate(self, rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        """``input_ids`` (B, T) padded right, and ``weights`` (B, T): of the loss on each token."""
        width = max(len(p) + len(a) for p, a in rows)
        ids = torch.full((len(rows), width), self.pad)
        weights = torch.zeros(len(rows), width)
        for i, (prompt, answer) in enumerate(rows):
            n, m = len(prompt), len(prompt) + len(answer)
            ids[i, :m] = torch.tensor(prompt + answer)
            weights[i, :n] = self.config.prompt_weight
            weights[i, n:m] = 1.0
        return {"input_ids": ids, "weights": weights}


def weighted_loss(
    logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token cross entropy averaged by weight, and its mean over answer tokens alone.

    Args:
        logits: (B, T, V).
        ids: (B, T).
        weights: (B, T), 0 on padding, 1 on the answer.
    """
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    w = weights[:, 1:].flatten()
    answer = (w == 1).float()
    return (losses * w).sum() / w.sum(), (losses * answer).sum().detach() / answer.sum()


def schedule(done: float) -> float:
    """Learning rate factor at share ``done`` of the run: warm up 2 %, hold, decay from 60 % on."""
    return min(1.0, done / 0.02, max(0.02, (1 - done) / 0.4))


def warm_start(
    toxic: list[str],
    clean: list[str],
    plain_texts: list[str],
    run: Path,
    config: WarmStartConfig,
    *,
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
    checkpoint_every: float = 120.0,
    in_domain: tuple[list[str], list[str]] = ([], []),
) -> Path:
    """Train a small rewriter and write it as an HF folder ``run/model``.

    Args:
        toxic: comments of the toxic pile.
        clean: comments of the clean pile; targets, and the clean side of the lexicon.
        plain_texts: general clean text; sentences with a lexicon word are left out.
        run: folder for checkpoints, ``metrics.jsonl`` and the result; resumed if it has a checkpoint.
        progress: called with the metrics of every logged step.
        checkpoint_every: seconds between checkpoints.
        in_domain: more (toxic, clean) comments of the piles' domain, for mining only.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lexicon = mine_lexicon([*toxic, *in_domain[0]], [*clean, *in_domain[1]])
    plain = list(dict.fromkeys(clean_sentences(plain_texts, lexicon.toxic)))
    neutral = list(dict.fromkeys(clean_sentences(clean, lexicon.toxic, low=2, high=40)))
    noise = build_noise([*toxic, *in_domain[0]], [*clean, *in_domain[1]], plain)
    tokenizer = train_tokenizer([*toxic, *neutral * 3, *plain[:300_000]], config.vocabulary)
    held_out = [t for t in neutral if fold(t) < 0.02]
    neutral = [t for t in neutral if fold(t) >= 0.02]
    data = Denoising(noise, neutral, plain, tokenizer, config)
    valid = Denoising(noise, held_out, held_out, tokenizer, config)
    rng = random.Random(1)
    valid_rows = [e for e in (valid.example(rng) for _ in range(200)) if e]
    model = new_model(config, tokenizer).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    state = checkpoint.load(run, model, optimizer) or {"step": 0, "tokens": 0}
    run.mkdir(parents=True, exist_ok=True)
    started, saved = time.monotonic(), time.monotonic()
    log = (run / "metrics.jsonl").open("a")
    for batch in data.batches(skip=state["step"]):
        if state["tokens"] >= config.tokens:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(state["tokens"] / config.tokens)
        ids, weights = batch["input_ids"].to(device), batch["weights"].to(device)
        with torch.autocast(device, torch.bfloat16):
            logits = model(ids, attention_mask=(weights > 0).long(), use_cache=False).logits
        loss, answer_loss = weighted_loss(logits, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state["step"] += 1
        state["tokens"] += int((weights > 0).sum())
        if state["step"] % 25 == 0:
            metrics = {
                **state,
                "loss": round(float(loss), 4),
                "answer_loss": round(float(answer_loss), 4),
                "seconds": round(time.monotonic() - started, 1),
            }
            log.write(json.dumps(metrics) + "\n")
            log.flush()
            progress(metrics)
        if time.monotonic() - saved > checkpoint_every:
            checkpoint.save(run, model, optimizer, state)
            saved = time.monotonic()
    model.eval()
    with torch.no_grad():
        batch = {k: v.to(device) for k, v in valid.collate(valid_rows).items()}
        logits = model(batch["input_ids"], attention_mask=(batch["weights"] > 0).long()).logits
        held_out_loss = float(weighted_loss(logits, batch["input_ids"], batch["weights"])[1])
    out = run / "model"
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "prompt.json").write_text(json.dumps(SMALL_TEMPLATE.to_dict(), indent=2))
    (out / "lexicon.json").write_text(json.dumps(lexicon.toxic, indent=0))
    (run / "run.json").write_text(
        json.dumps(
            {"kind": "warm-start", "config": asdict(config), **state, "held_out_loss": held_out_loss},
            indent=2,
        )
    )
    return out
