"""A step of SRO as three programs take it: the notebook's loop, trl's Online DPO, and ours.

Each factory returns a function that works through comments and says how long it took. All judge by
the same follower, which starts every round without having seen the comments.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from sro_edge.training.config import SROConfig
from sro_edge.training.follower import Classifier, Follower
from sro_edge.training.objective import sro_loss
from sro_edge.training.packing import Group
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import rollout
from sro_edge.training.runs import model_folder, stored_thresholds
from sro_edge.training.step import sro_backward

BATCH, LIMIT = 16, 48
Rival = Callable[[Sequence[str]], float]  # works through the comments; seconds that took
clock = time.perf_counter


def follower_of(screener: str, *, bf16: bool = False) -> Callable[[], Follower]:
    """A factory of followers that remember nothing, with one classifier between them."""
    classifier = Classifier.load(model_folder(screener), bf16=bf16)
    thresholds = stored_thresholds(screener)
    return lambda: Follower(classifier, thresholds)


def ours(folder: str, screener: str, samples: int, lora: bool, spent: dict[str, float]) -> Rival:
    """A closure that trains as `sro-edge train` does; adds to ``spent`` where the time went."""
    config = SROConfig(lora=lora, samples=samples, max_new_tokens=LIMIT, comments=BATCH)
    policy = Policy(folder, config)
    policy.learning_rate = 1e-6
    optimizer = policy.optimizer()
    make_follower = follower_of(screener, bf16=policy.bf16)

    def run(comments: Sequence[str]) -> float:
        began = mark = _now()
        follower = make_follower()

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
                tree = Group(policy.prompter.prompt(comment), list(answers)).tree
                spent["tokens"] = spent.get("tokens", 0) + len(tree.ids)
        return mark - began

    return run


def loop(folder: str, screener: str, samples: int, lora: bool, *, bf16: bool = False) -> Rival:
    """The notebook's loop: generate, judge, score, step; a comment at a time.

    It is published in fp32; with ``bf16`` it computes as ours does there, weights that are trained
    in fp32 and all others in bf16.
    """
    policy = Policy(folder, SROConfig(lora=lora, bf16=bf16))
    prompter, model = policy.prompter, policy.model
    make_follower = follower_of(screener, bf16=bf16)
    policy._reference = None  # the copy that full fine-tuning keeps: the second model stands for it
    reference = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if bf16 else torch.float32
    )
    reference.to(model.device).eval()
    optimizer = torch.optim.AdamW(policy.trained, lr=1e-6)

    def logp(scorer: Any, prompt: list[int], answer: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *answer]], device=model.device)
        with policy.autocast():
            logits = scorer(ids).logits[0, len(prompt) - 1 : -1].float()
        return -F.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum")

    def ratio(prompt: list[int], answer: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            base = logp(reference, prompt, answer)
        return logp(model, prompt, answer) - base

    def run(comments: Sequence[str]) -> float:
        began = _now()
        follower = make_follower()
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
    with policy.autocast():
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


def trl(folder: str, screener: str, lora: bool) -> Rival:
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
    make_follower = follower_of(screener)
    follower = make_follower()

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
        nonlocal follower
        follower = make_follower()
        watch = Clock()
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
                callbacks=[watch],
            )
            trainer.train()
        return watch.seconds

    return run


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock()
