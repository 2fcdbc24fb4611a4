"""A small rewriter from nothing: tokenizer and Llama-shaped model trained to undo toxic noise.

Denoising of clean text stands in for supervised fine-tuning where no pretrained model is at hand.
Only unpaired piles are used: targets are clean sentences, noise is mined from toxic ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sro_edge.errors import ModelError
from sro_edge.mild_words import Table
from sro_edge.prompt import SMALL_TEMPLATE, PromptTemplate
from sro_edge.training.config import WarmStartConfig
from sro_edge.training.encoder import Encoder
from sro_edge.training.insults import substitutes
from sro_edge.training.journal import Journal
from sro_edge.training.lexicon import analogues, clean_words, mine_lexicon, weighed, word_vectors
from sro_edge.training.memory import bound_kernel_caches
from sro_edge.training.noise import ToxicNoise, with_odd_words
from sro_edge.training.objective import IGNORED
from sro_edge.training.piles import clean_sentences, fold
from sro_edge.training.precision import autocast
from sro_edge.training.runs import model_folder, run_record
from sro_edge.training.tokens import pad_rows, tokenize_with


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
    # Eager attention: on short rows the CPU's fused backward takes three times as long.
    return LlamaForCausalLM._from_config(
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
        ),
        attn_implementation="eager",
    )


def load_small(run: str | Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model of an earlier warm start, or of what was trained from it, and its tokenizer.

    Raises:
        ModelError: it is another kind of model.
    """
    folder = model_folder(run)
    template = Path(folder) / "prompt.json"
    if not template.is_file() or json.loads(template.read_text()) != SMALL_TEMPLATE.to_dict():
        raise ModelError(f"{run} is no run of `sro-edge warm-start`, nor one trained from such")
    model = LlamaForCausalLM.from_pretrained(
        folder, use_safetensors=True, attn_implementation="eager", dtype=torch.float32
    )
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


@dataclass(frozen=True)
class Piles:
    """The unpaired texts a warm start learns from.

    Args:
        toxic: the toxic pile; source of the noise, never a target.
        clean: the clean pile; targets.
        plain: general clean text; its sentences without toxic words are targets too.
        mining: more (toxic, clean) comments of the same domain, only for finding toxic words.
        pairs: comments with rewrites of a model's own (``sro-edge distill``), learned from beside
            the noised sentences.
        mild: toxic phrases with milder ones (:mod:`sro_edge.mild_words`), in the place of
            distributional analogues.
    """

    toxic: list[str]
    clean: list[str]
    plain: list[str]
    mining: tuple[list[str], list[str]] = ([], [])
    pairs: Sequence[tuple[str, str]] = ()
    mild: Table | None = None


def build_noise(
    piles: Piles, lexicon: dict[str, float], sentences: list[str], encoder: Encoder
) -> ToxicNoise:
    """What to substitute by what: as the table of milder words says, else by analogues.

    Clean ``sentences`` sharpen the contexts of words, from which the analogues are found.
    """
    toxic = [*piles.toxic, *piles.mining[0]]
    if piles.mild:
        clean = [*piles.clean, *sentences[:200_000]]
        return ToxicNoise(toxic, lexicon, substitutes(piles.mild, toxic, clean))
    index, vectors = word_vectors([*toxic, *piles.clean, *piles.mining[1], *sentences[:200_000]])
    leaning = clean_words(piles.toxic, piles.clean)
    table = analogues(list(lexicon), leaning, index, vectors, encoder.embed)
    return ToxicNoise(toxic, lexicon, weighed(table, toxic))


class Denoising:
    """Endless batches of (noised prompt, clean answer); deterministic, and resumable by step."""

    def __init__(
        self,
        noise: ToxicNoise,
        neutral: list[str],
        plain: list[str],
        tokenizer: PreTrainedTokenizerFast,
        config: WarmStartConfig,
        pairs: Sequence[tuple[str, str]] = (),
        template: PromptTemplate = SMALL_TEMPLATE,
    ) -> None:
        self.pairs = pairs
        self.noise, self.neutral, self.plain = noise, neutral, plain
        self.config, self.template, self.pad = config, template, tokenizer.pad_token_id
        self.eos, self.tokenize = tokenizer.eos_token_id, tokenize_with(tokenizer)

    def example(self, rng: random.Random) -> tuple[list[int], list[int]] | None:
        """(prompt ids, answer ids with end token), or None where it is too long."""
        toxic, clean = self._texts(rng)
        prompt = self.template.encode(toxic, self.tokenize)
        answer = [*self.template.encode_text(clean, self.tokenize), self.eos]
        return (prompt, answer) if len(prompt) + len(answer) <= self.config.max_length else None

    def _texts(self, rng: random.Random) -> tuple[str, str]:
        """What the prompt and the answer say."""
        if self.pairs and rng.random() < self.config.pairs_share:
            return rng.choice(self.pairs)
        pile = self.neutral if rng.random() < self.config.neutral_share else self.plain
        clean = rng.choice(pile)
        if rng.random() < self.config.odd_share:
            clean = with_odd_words(clean, rng)
        return self.noise.corrupt(clean, rng), clean

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
                    yield pad_rows(row, self.pad)


def answer_loss(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross entropy over answer tokens; the vocabulary is scored at those places only."""
    device = model.device
    with autocast(device):
        hidden = model.model(
            batch["input_ids"].to(device), batch["attention_mask"].to(device), use_cache=False
        ).last_hidden_state  # (B, T, d)
        targets = batch["labels"].to(device)[:, 1:]
        wanted = targets != IGNORED
        logits = model.lm_head(hidden[:, :-1][wanted])  # (answer tokens, V)
    return F.cross_entropy(logits.float(), targets[wanted])


def make_optimizers(
    model: LlamaForCausalLM, config: WarmStartConfig
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers and AdamW for the rest, or AdamW for all."""
    inner: list[torch.nn.Parameter] = []
    outer: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        use_muon = config.optimizer == "muon" and parameter.ndim == 2 and ".layers." in name
        (inner if use_muon else outer).append(parameter)
    rate, decay = config.learning_rate, config.weight_decay
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=decay, fused=True)
    ]
    if inner:
        optimizers.append(
            torch.optim.Muon(inner, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def schedule(done: float) -> float:
    """Learning rate factor at share ``done`` of the run: warm up 2 %, hold, decay from 60 % on."""
    return min(1.0, done / 0.02, max(0.02, (1 - done) / 0.4))


def warm_start(
    piles: Piles,
    run: Path,
    config: WarmStartConfig,
    encoder: Encoder,
    *,
    init: str | Path | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
    checkpoint_every: float = 120.0,
) -> Path:
    """Train a small rewriter and write it as an HF folder ``run/model``.

    Args:
        piles: what to learn from.
        run: folder of checkpoints, ``metrics.jsonl`` and the result; resumed from a checkpoint.
        config: shape and schedule.
        encoder: judges which words mean the like.
        init: run of a small rewriter to go on from, with its tokenizer and its shape.
        progress: called with the metrics of every logged step.
        checkpoint_every: seconds between checkpoints.
    """
    bound_kernel_caches()
    lexicon = mine_lexicon([*piles.toxic, *piles.mining[0]], [*piles.clean, *piles.mining[1]])
    plain = list(dict.fromkeys(clean_sentences(piles.plain, lexicon)))
    neutral = list(dict.fromkeys(clean_sentences(piles.clean, lexicon, low=2, high=40)))
    noise = build_noise(piles, lexicon, plain, encoder)
    if init is None:
        texts = [*piles.toxic, *neutral * 3, *plain[:300_000]]
        tokenizer = train_tokenizer(texts, config.vocabulary)
        model = new_model(config, tokenizer)
    else:
        model, tokenizer = load_small(init)
    held_out = [t for t in neutral if fold(t) < 0.02] or neutral[:1]
    neutral = [t for t in neutral if fold(t) >= 0.02]
    data = Denoising(noise, neutral, plain or neutral, tokenizer, config, piles.pairs)
    valid = Denoising(noise, held_out, held_out, tokenizer, config)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    state = _fit(model, data, run, config, progress, checkpoint_every)
    rng = random.Random(1)
    rows = [e for e in (valid.example(rng) for _ in range(200)) if e]
    model.eval()
    with torch.no_grad():
        held_out_loss = answer_loss(model, pad_rows(rows, valid.pad)).item()
    out = run / "model"
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "prompt.json").write_text(json.dumps(SMALL_TEMPLATE.to_dict(), indent=2))
    (out / "lexicon.json").write_text(json.dumps(lexicon, indent=0))
    record = {"kind": "warm-start", "config": asdict(config), **state, "init": init and str(init)}
    record |= {"pairs": len(piles.pairs), "held_out_loss": held_out_loss}
    if init is not None and (origin := run_record(init)):
        record["base_run"] = origin
    (run / "run.json").write_text(json.dumps(record, indent=2))
    return out


def _fit(
    model: LlamaForCausalLM,
    data: Denoising,
    run: Path,
    config: WarmStartConfig,
    progress: Callable[[dict[str, Any]], None],
    checkpoint_every: float,
) -> dict[str, int]:
    """The training loop; returns ``step`` and ``tokens`` done."""
    optimizers = make_optimizers(model, config)
    with Journal(run, progress, checkpoint_every) as journal:
        state = journal.resume(model, optimizers) or {"step": 0, "tokens": 0}
        for batch in data.batches(skip=state["step"]):
            if state["tokens"] >= config.tokens:
                break
            for group in (g for o in optimizers for g in o.param_groups):
                group["lr"] = config.learning_rate * schedule(state["tokens"] / config.tokens)
            loss = answer_loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            state["step"] += 1
            state["tokens"] += int(batch["attention_mask"].sum())
            if state["step"] % 25 == 0:
                journal.report({**state, "loss": loss.item(), "seconds": journal.seconds})
            journal.checkpoint(model, optimizers, state)
        journal.checkpoint(model, optimizers, state, now=True)
    return state
