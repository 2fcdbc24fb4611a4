"""Any decoder-only model is a policy: prompts, end tokens, one step of training, loading again."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from toy_families import FAMILIES, write_family
from toy_models import ABOUT, values
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Lfm2Config,
    MistralConfig,
    MptConfig,
    RwkvConfig,
)

from sro_edge.errors import MissingExtraError, ModelError
from sro_edge.export.gguf_writer import write_gguf
from sro_edge.export.merge import load_policy
from sro_edge.export.proof_gguf import prove_tokens
from sro_edge.export.runs import open_run
from sro_edge.prompt import INSTRUCTION
from sro_edge.training.config import SROConfig
from sro_edge.training.follower import Verdicts
from sro_edge.training.packing import Group, Packed, pack
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import rollout
from sro_edge.training.step import sro_backward

COMMENTS = ["what a stupid idea , only an idiot would say this", "people like you never listen"]
ANSWERS = ["what an idea", "people never listen"]
CONFIG = SROConfig(lora=True, lora_rank=4, learning_rate=1e-2, bf16=False, seed=3)
FULL = dataclasses.replace(CONFIG, lora=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_family(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


def train_one_step(policy: Policy) -> float:
    """One step on sampled answers of which every other one passes."""
    samples = rollout(policy, COMMENTS, samples=2, max_new_tokens=5)
    passed = torch.tensor([True, False] * 2)
    metrics = sro_backward(
        policy, COMMENTS, samples, Verdicts(passed, torch.zeros(4), None, None), CONFIG
    )
    torch.optim.AdamW(policy.trained, lr=1e-2).step()
    return metrics["loss"]


def answer_logps(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.logprobs(packed_answers(policy))


def packed_answers(policy: Policy) -> Packed:
    """One answer to each comment."""
    prompter = policy.prompter
    pairs = zip(COMMENTS, ANSWERS, strict=True)
    groups = [Group(prompter.prompt(c), [prompter.answer(a)]) for c, a in pairs]
    return pack(groups, prompter.pad)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_a_family_trains_and_its_run_loads_again(
    folders: dict[str, Path], name: str, lora: bool, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, lora=lora)
    policy = Policy(folders[name], config)
    before = answer_logps(policy)
    assert math.isfinite(train_one_step(policy))
    after = answer_logps(policy)
    assert not torch.allclose(before, after, atol=1e-3)
    again = Policy(policy.save(tmp_path), config)
    assert torch.allclose(answer_logps(again), after, atol=1e-4)
    reference = again.reference_logprobs(packed_answers(again))
    assert reference[0].item() == pytest.approx(after[0].item(), abs=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_the_familys_own(folders: dict[str, Path], name: str) -> None:
    family, policy = FAMILIES[name], Policy(folders[name], CONFIG)
    comment = f"say {family.special[-1]} now"
    ids = policy.prompter.prompt(comment)
    text = policy.tokenizer.decode(ids)
    end = policy.tokenizer.convert_tokens_to_ids(family.end)
    assert policy.prompter.answer("fine")[-1] == policy.prompter.eos == end
    assert ids.count(policy.tokenizer.bos_token_id or -1) <= text.count(family.bos or "-")
    if family.template is None:
        assert text == f"{family.bos} {comment}<|rewrite|>"
        assert ids[-1] == len(policy.tokenizer) - 1
    else:
        expected = policy.tokenizer.apply_chat_template(
            [{"role": "user", "content": INSTRUCTION + comment}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        assert text == expected
        assert text.endswith("<think>\n\n</think>\n\n") == (name in ("qwen3", "smollm3"))
    # The comment's own control tokens stay plain text.
    special = policy.tokenizer.convert_tokens_to_ids(family.special[-1])
    assert ids.count(special) == policy.prompter.prompt("say now").count(special)


def test_added_tokens_are_trained_in_the_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    policy = Policy(folders["gpt2"], CONFIG)
    added = len(policy.tokenizer) - 1
    embeddings = policy.model.get_input_embeddings()
    before = embeddings(torch.tensor([added])).detach().clone()
    train_one_step(policy)
    after = embeddings(torch.tensor([added])).detach()
    assert not torch.allclose(before, after)
    again = Policy(policy.save(tmp_path), CONFIG).model.get_input_embeddings()
    assert torch.allclose(again(torch.tensor([added])), after, atol=1e-6)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_a_plain_model_is_exported_with_its_control_token(lora: bool, tmp_path: Path) -> None:
    write_family(tmp_path / "base", "llama", template=None)
    policy = Policy(tmp_path / "base", dataclasses.replace(CONFIG, lora=lora))
    train_one_step(policy)
    policy.save(tmp_path / "run")
    found = load_policy(open_run(tmp_path / "run", "policy"))
    ids = torch.tensor([policy.prompter.prompt(COMMENTS[0])])
    assert ids[0, -1] == found.model.config.vocab_size - 1
    with torch.no_grad():
        logits = found.model(input_ids=ids).logits
        assert torch.allclose(logits, policy.model(input_ids=ids).logits, atol=1e-4)
    write_gguf(found.model, found.tokenizer, tmp_path / "f32.gguf", ABOUT)
    assert values(prove_tokens(found, tmp_path / "f32.gguf", COMMENTS))["tokens.differing"] == 0


def test_an_adapter_can_be_merged_and_trained_in_full(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    policy = Policy(folders["llama"], CONFIG)
    train_one_step(policy)
    merged = Policy(policy.save(tmp_path), dataclasses.replace(CONFIG, lora=False))
    assert merged.save(tmp_path / "full").name == "model"
    assert torch.allclose(answer_logps(merged), answer_logps(policy), atol=1e-4)


def test_the_same_seed_gives_the_same_adapter(folders: dict[str, Path]) -> None:
    one, two = (Policy(folders["llama"], CONFIG).trained for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_tokenizer_without_end_or_pad_token_gets_one(tmp_path: Path) -> None:
    write_family(tmp_path, "gpt2")
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        values = json.loads((tmp_path / name).read_text())
        values = {k: v for k, v in values.items() if k not in {"eos_token", "eos_token_id"}}
        (tmp_path / name).write_text(json.dumps(values))
    policy = Policy(tmp_path, CONFIG)
    assert policy.tokenizer.convert_ids_to_tokens(policy.prompter.eos) == "</s>"
    assert policy.prompter.pad == policy.prompter.eos
    assert math.isfinite(train_one_step(policy))
    again = Policy(policy.save(tmp_path / "run"), CONFIG)
    assert torch.allclose(answer_logps(again), answer_logps(policy), atol=1e-4)


def test_gradient_checkpointing_changes_no_gradient(folders: dict[str, Path]) -> None:
    def gradients(**options: Any) -> list[torch.Tensor]:
        policy = Policy(folders["llama"], dataclasses.replace(CONFIG, **options))
        policy.model.train()
        train_one_step(policy)
        return [p.grad for p in policy.trained if p.grad is not None]

    pairs = zip(gradients(), gradients(gradient_checkpointing=True), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_bf16_keeps_trained_weights_in_fp32(folders: dict[str, Path]) -> None:
    exact = answer_logps(Policy(folders["llama"], CONFIG))
    for lora in (True, False):
        policy = Policy(folders["llama"], dataclasses.replace(CONFIG, lora=lora, bf16=True))
        assert all(p.dtype == torch.float32 for p in policy.trained)
        assert (next(policy.model.parameters()).dtype == torch.bfloat16) is lora
        assert torch.allclose(answer_logps(policy), exact, rtol=0.02)
        assert math.isfinite(train_one_step(policy))


def test_lora_options_reach_the_adapter(folders: dict[str, Path]) -> None:
    config = dataclasses.replace(CONFIG, lora_rank=2, lora_alpha=3, lora_targets="q_proj, v_proj")
    policy = Policy(folders["llama"], config)
    found = policy.model.peft_config["default"]
    assert (found.r, found.lora_alpha, found.target_modules) == (2, 3, {"q_proj", "v_proj"})
    with pytest.raises(ModelError, match="--lora-targets 'nothing' do not fit"):
        Policy(folders["llama"], dataclasses.replace(config, lora_targets="nothing"))


def test_a_four_bit_base_trains(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIG, four_bit=True)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"sro-edge\[four-bit\]"):
            Policy(folders["llama"], config)
    with pytest.raises(ValueError, match="four_bit"):
        SROConfig(four_bit=True, lora=False)
    pytest.importorskip("bitsandbytes")
    policy = Policy(folders["llama"], config)
    assert any(p.dtype == torch.uint8 for p in policy.model.parameters())
    assert math.isfinite(train_one_step(policy))


def write_model(folder: Path, source: Path, config: Any) -> Path:
    """A random model of ``config`` with the tokenizer of ``source``."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    config.vocab_size = len(tokenizer)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
APART = {
    "convolutions": Lfm2Config(
        **SMALL, num_key_value_heads=2, intermediate_size=64, layer_types=["conv", "full_attention"]
    ),
    "distances by place": MptConfig(d_model=32, n_layers=2, n_heads=2),
}


@pytest.mark.parametrize("kind", APART)
def test_models_that_see_across_branches_get_rows_apart(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    policy = Policy(write_model(tmp_path, folders["llama"], APART[kind]), FULL)
    assert not policy.trees
    assert not policy.guesses
    prompter = policy.prompter
    groups = [Group(prompter.prompt(c), [prompter.answer(a) for a in ANSWERS]) for c in COMMENTS]
    with torch.no_grad():
        together = policy.logprobs(policy.pack(groups))
        alone = [policy.logprobs(policy.pack([g])) for group in groups for g in group.apart()]
        leaking = policy.logprobs(pack(groups, prompter.pad))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert not torch.equal(leaking, together)
    assert math.isfinite(train_one_step(policy))


def test_a_window_shorter_than_a_text_gets_rows_apart(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = MistralConfig(**SMALL, num_key_value_heads=2, intermediate_size=64, sliding_window=6)
    policy = Policy(write_model(tmp_path, folders["llama"], config), FULL)
    short, long = Group([5, 6], [[7, 1], [8, 1]]), Group(range(5, 15), [[7, 1], [8, 1]])
    assert policy.pack([short]).inputs["attention_mask"].dim() == 4
    assert policy.pack([short, long]).inputs["attention_mask"].dim() == 2
    assert not policy.guesses


def test_a_model_without_a_cache_of_attention_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = RwkvConfig(hidden_size=32, num_hidden_layers=2)
    with pytest.raises(ModelError, match=r"\(rwkv\) cannot continue padded prompts"):
        Policy(write_model(tmp_path, folders["llama"], config), FULL)


def test_an_encoder_decoder_model_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    transformers.T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1).save_pretrained(
        tmp_path
    )
    transformers.AutoTokenizer.from_pretrained(folders["llama"]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"encoder-decoder model \(t5\).*decoder-only"):
        Policy(tmp_path, CONFIG)


def test_what_is_no_model_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer that can be loaded"):
        Policy(tmp_path, CONFIG)
    with pytest.raises(ModelError, match="a network"):
        Policy("nobody/such-a-model", CONFIG)
