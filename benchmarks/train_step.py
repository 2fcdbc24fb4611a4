"""How fast is a step of SRO, and how much memory does it take? Beside two rivals, same model.

    python benchmarks/train_step.py --policy runs/warm-start --screener runs/screener \
        --toxic toxic.parquet [--comments N] [--lora] [--part speed|memory] [--out F.json]

A step is rollout, verdicts and update. `loop` is the released notebook's loop, written correctly:
one comment at a time, a second full model as the reference, fp32. `trl` is its Online DPO trainer
(two samples a comment) with the follower as the reward. Rivals run A B A B on the same comments;
the median of the ratios counts. Peak memory is that of one process a rival, with LoRA on all sides;
what the libraries and the screener take before a policy is there is given apart. On a GPU the model
FLOP utilisation of the update is printed as well. With --part only that part is run anew and put
into --out beside the other. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sro_edge.machine import describe_machine
from sro_edge.training.config import SROConfig
from sro_edge.training.follower import Classifier, Follower
from sro_edge.training.objective import sro_loss
from sro_edge.training.packing import Group
from sro_edge.training.piles import read_texts
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import rollout
from sro_edge.training.runs import model_folder, stored_thresholds
from sro_edge.training.step import sro_backward

BATCH, LIMIT, ROUNDS = 16, 48, 3
SHAPES = {
    "smollm2-135m": (49_152, 576, 30, 9, 3, 1536),
    "qwen2.5-0.5b": (151_936, 896, 24, 14, 2, 4864),
}
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12}

_clock = time.perf_counter
Rival = Callable[[Sequence[str]], float]  # works through the comments; seconds that took


def ours(
    folder: str, follower: Follower, samples: int, lora: bool, spent: dict[str, float]
) -> Rival:
    """A closure that trains as `sro-edge train` does; adds to ``spent`` where the time went."""
    config = SROConfig(lora=lora, samples=samples, max_new_tokens=LIMIT, comments=BATCH)
    policy = Policy(folder, config)
    optimizer = torch.optim.AdamW(policy.trained, lr=1e-6)

    def run(comments: Sequence[str]) -> float:
        began = mark = _now()

        def lap(name: str) -> None:
            nonlocal mark
            spent[name] = spent.get(name, 0.0) + _now() - mark
            mark = _now()

        for start in range(0, len(comments), BATCH):
            batch = comments[start : start + BATCH]
            drawn = rollout(policy, batch, samples=samples, max_new_tokens=LIMIT, seed=start)
            lap("rollout")
            seen = follower.verdicts(
                [batch[s.comment] for s in drawn],
                [s.text for s in drawn],
                [s.finished for s in drawn],
            )
            lap("verdicts")
            sro_backward(policy, batch, drawn, seen, config)
            torch.nn.utils.clip_grad_norm_(policy.trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            lap("update")
            for i, comment in enumerate(batch):
                answers = {s.ids for s in drawn if s.comment == i}
                width = Group(policy.prompter.prompt(comment), list(answers)).width
                spent["tokens"] = spent.get("tokens", 0) + width
        return mark - began

    return run


def loop(folder: str, follower: Follower, samples: int, lora: bool) -> Rival:
    """The notebook's loop: generate, judge, score, step; a comment at a time, in fp32."""
    policy = Policy(folder, SROConfig(lora=lora, bf16=False))
    prompter, model = policy.prompter, policy.model
    policy._reference = None  # the copy that full fine-tuning keeps: the second model stands for it
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    reference.to(model.device).eval()
    optimizer = torch.optim.AdamW(policy.trained, lr=1e-6)

    def logp(scorer: Any, prompt: list[int], answer: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *answer]], device=model.device)
        logits = scorer(ids).logits[0, len(prompt) - 1 : -1]
        return -F.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum")

    def ratio(prompt: list[int], answer: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            base = logp(reference, prompt, answer)
        return logp(model, prompt, answer) - base

    def run(comments: Sequence[str]) -> float:
        began = _now()
        for comment in comments:
            prompt = prompter.prompt(comment)
            limit = min(LIMIT, int(1.5 * len(prompter.answer(comment))) + 16)
            drawn = _generate(policy, prompt, limit, samples)
            texts = [prompter.restore(ids, comment) for ids in drawn]
            ended = [ids[-1] == prompter.eos for ids in drawn]
            passed = follower.verdicts([comment] * samples, texts, ended).passed
            r_y = torch.stack([ratio(prompt, ids) for ids in drawn])
            r_x = ratio(prompt, prompter.answer(comment)) if passed.any() else r_y[0].detach()
            weight = passed.float().to(r_y.device)
            sro_loss(r_y, r_x, weight).losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return _now() - began

    return run


@torch.no_grad()
def _generate(policy: Policy, prompt: list[int], limit: int, samples: int) -> list[list[int]]:
    eos = policy.prompter.eos
    policy.model.eval()
    ids = torch.tensor([prompt], device=policy.model.device)
    out = policy.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        top_k=0,
        max_new_tokens=limit,
        num_return_sequences=samples,
        pad_token_id=policy.prompter.pad,
        eos_token_id=eos,
    )[:, len(prompt) :].tolist()
    policy.model.train()
    return [row[: row.index(eos) + 1] if eos in row else row for row in out]


def trl(folder: str, follower: Follower, lora: bool) -> Rival:
    """trl's Online DPO trainer with its own defaults, the follower as the reward."""
    import warnings

    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    warnings.filterwarnings("ignore")
    opened = Policy(folder, SROConfig(lora=False, bf16=False))
    template, tokenizer, model = opened.template, opened.tokenizer, opened.model
    opened._reference = None
    tokenizer.chat_template = None

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        body = [p.removeprefix(template.prefix).removesuffix(template.suffix) for p in prompts]
        seen = follower.verdicts(body, completions, [True] * len(body))
        return (seen.passed.float() - 0.01 * seen.toxicity).tolist()  # no ties

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = _now()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.seconds = _now() - self.began

    def run(comments: Sequence[str]) -> float:
        clock = Clock()
        texts = [template.lead + template.normalise(c) for c in comments]
        prompts = [{"prompt": template.prefix + t + template.suffix} for t in texts]
        with tempfile.TemporaryDirectory() as folder:
            trainer = OnlineDPOTrainer(
                model,
                reward_funcs=reward,
                args=OnlineDPOConfig(
                    folder,
                    per_device_train_batch_size=BATCH,
                    num_train_epochs=1,
                    max_new_tokens=LIMIT,
                    temperature=1.0,
                    learning_rate=1e-6,
                    gradient_checkpointing=False,
                    use_cpu=not torch.cuda.is_available(),
                    save_strategy="no",
                    logging_strategy="no",
                    report_to=[],
                    disable_tqdm=True,
                ),
                train_dataset=Dataset.from_list(prompts),
                processing_class=tokenizer,
                peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
                if lora
                else None,
                callbacks=[clock],
            )
            trainer.train()
        return clock.seconds

    return run


def race(rivals: dict[str, Rival], comments: Sequence[str]) -> dict[str, Any]:
    """Comments per second of each rival, in turns after a warm-up; the last one over the first."""
    for rival in rivals.values():
        rival(comments[:BATCH])
    speeds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(ROUNDS):
        for name, rival in rivals.items():
            speeds[name].append(round(len(comments) / rival(comments), 2))
    first, last = speeds.values()
    ratios = [b / a for a, b in zip(first, last, strict=True)]
    return {
        "comments_per_second": speeds,
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def peak_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of one step of each rival, with LoRA, on a model of random weights."""
    found: dict[str, Any] = {"shape": options.memory_shape}
    with tempfile.TemporaryDirectory() as folder:
        _random_model(options, folder)
        for name in ("loop", "trl", "ours"):
            command = [sys.executable, __file__, "--only", name, "--policy", folder]
            command += ["--screener", options.screener, "--toxic", str(options.toxic)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name] = json.loads(out.splitlines()[-1])
    for kind in ("peak_mb", "policy_mb"):
        figures = {name: found[name][kind] for name in ("loop", "trl", "ours")}
        found[f"ratio_{kind}"] = {
            rival: round(figures["ours"] / figures[rival], 3) for rival in ("loop", "trl")
        }
    return found


def _random_model(options: argparse.Namespace, folder: str) -> None:
    vocabulary, width, layers, heads, key_heads, inner = SHAPES[options.memory_shape]
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            intermediate_size=inner,
            tie_word_embeddings=True,
        )
    ).to(torch.bfloat16).save_pretrained(folder)  # as such models are published
    source = Path(model_folder(options.policy))
    for file in ("tokenizer.json", "tokenizer_config.json", "prompt.json"):
        (Path(folder) / file).write_bytes((source / file).read_bytes())


def _measure_one(options: argparse.Namespace, follower: Follower, comments: list[str]) -> None:
    """In a process of its own: one step of one rival, then the peak."""
    folder = model_folder(options.policy)
    follower.verdicts(comments, comments, [True] * len(comments))  # the screener's own peak
    before = _peak_mb()
    make: dict[str, Callable[[], Rival]] = {
        "ours": lambda: ours(folder, follower, 1, True, {}),
        "loop": lambda: loop(folder, follower, 1, True),
        "trl": lambda: trl(folder, follower, True),
    }
    make[options.only]()(comments[: 2 if options.only == "loop" else BATCH])
    peak = _peak_mb()
    print(json.dumps({"peak_mb": round(peak), "policy_mb": round(peak - before)}))


def _peak_mb() -> float:
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return _clock()


def shares(spent: dict[str, float], parameters: int, lora: bool) -> dict[str, Any]:
    """Where our time went, and on a known GPU the FLOP utilisation of the update.

    A token costs 2 N forward for the policy and 2 N for the reference, and backward 4 N, or 2 N
    where only an adapter has weight gradients (N parameters; Chowdhery et al. 2022, appendix B).
    """
    seconds = sum(spent[name] for name in ("rollout", "verdicts", "update"))
    found: dict[str, Any] = {
        name: round(spent[name] / seconds, 3) for name in ("rollout", "verdicts", "update")
    }
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
    if peak:
        flops = (6 if lora else 8) * parameters * spent["tokens"]
        found["update_mfu"] = round(flops / spent["update"] / peak, 4)
    return found


def speed(options: argparse.Namespace, follower: Follower, comments: list[str]) -> dict[str, Any]:
    """The races, and where our time went."""
    folder, lora = model_folder(options.policy), options.lora
    spent: dict[str, float] = {}
    races = {}
    for samples in (1, 4):
        races[f"loop, {samples} a comment"] = race(
            {
                "loop": loop(folder, follower, samples, lora),
                "ours": ours(folder, follower, samples, lora, spent if samples == 4 else {}),
            },
            comments,
        )
    races["trl Online DPO, 2 a comment"] = race(
        {"trl": trl(folder, follower, lora), "ours": ours(folder, follower, 2, lora, {})}, comments
    )
    parameters = Policy(folder, SROConfig(lora=False)).model.num_parameters()
    return {
        "policy": {"parameters": parameters, "lora": lora},
        "settings": {"comments": len(comments), "batch": BATCH, "rounds": ROUNDS}
        | {"clock": "CPU seconds" if options.cpu_time else "seconds passed"},
        "races": races,
        "time_shares": shares(spent, parameters, lora),
    }


def main() -> None:
    """Race the rivals, measure their memory, print the tables."""
    global _clock
    options = _options()
    if options.cpu_time:
        _clock = time.process_time
        torch.set_num_threads(1)
    follower = Follower(
        Classifier.load(model_folder(options.screener)), stored_thresholds(options.screener)
    )
    comments = [t for t in dict.fromkeys(read_texts([options.toxic])) if len(t) < 200]
    comments = comments[: options.comments // BATCH * BATCH]
    if options.only:
        return _measure_one(options, follower, comments)
    old = options.out and options.out.exists() and json.loads(options.out.read_text())
    result: dict[str, Any] = (old if options.part else None) or {"benchmark": "train_step"}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads = {"threads": torch.get_num_threads(), "gpu": gpu}
    result |= {"date": time.strftime("%Y-%m-%d"), "machine": describe_machine() | threads}
    if options.part != "memory":
        result |= speed(options, follower, comments)
    if options.part != "speed":
        result["memory"] = peak_memory(options)
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def show(result: dict[str, Any]) -> None:
    """The tables for people, on stderr."""
    table = Table(title="comments per second (rollout, verdicts, update), median")
    for name in ("rival", "rival's", "ours", "ratio"):
        table.add_column(name, justify="left" if name == "rival" else "right")
    for name, figures in result.get("races", {}).items():
        rival, own = (statistics.median(v) for v in figures["comments_per_second"].values())
        table.add_row(name, f"{rival:.2f}", f"{own:.2f}", str(figures["ratio"]))
    console = Console(stderr=True)
    console.print(table)
    console.print(f"shares of our time {result.get('time_shares')}")
    console.print(f"memory {result.get('memory')}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--screener", required=True)
    parser.add_argument("--toxic", type=Path, required=True)
    parser.add_argument("--comments", type=int, default=32, help="comments of one round")
    parser.add_argument("--lora", action="store_true", help="an adapter instead of all weights")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread, and count the seconds it ran: for a machine that others use too",
    )
    parser.add_argument("--memory-shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--part", choices=("speed", "memory"), help="only this [default: both]")
    parser.add_argument("--only", choices=("ours", "loop", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
