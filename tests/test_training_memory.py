"""What training leaves in memory: no kernels of old shapes, no freed heap, no wrong guesses."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from toy_models import SENTENCES, write_policy_run

from sro_edge.training.config import SROConfig
from sro_edge.training.memory import bound_kernel_caches
from sro_edge.training.packing import Group
from sro_edge.training.policy import Policy
from sro_edge.training.precision import autocast, multiplies_bf16
from sro_edge.training.rollout import rollout

CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
RESIDENT = """
import types

import torch
from pathlib import Path
from sro_edge.training.memory import bound_kernel_caches, return_freed

def resident():
    line = next(t for t in Path("/proc/self/status").read_text().split("\\n") if "VmRSS" in t)
    return int(line.split()[1]) / 1024

torch.set_num_threads(1)
LARGE = types.SimpleNamespace(num_parameters=lambda: 10**9)
"""
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def megabytes(program: str, **variables: str) -> float:
    """What a process of its own prints."""
    environment = {k: v for k, v in os.environ.items() if k not in CACHES} | variables
    code = RESIDENT + textwrap.dedent(program)
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    return float(out)


@pytest.mark.parametrize(
    ("able", "bf16"), [({"avx2": True}, False), ({"avx512_bf16": True}, True), ({}, False)]
)
def test_bf16_is_used_where_the_processor_multiplies_in_it(
    able: dict[str, bool], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    with autocast(torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu") is bf16
    with autocast(torch.device("cpu"), not bf16):
        assert torch.is_autocast_enabled("cpu") is not bf16


@linux
@pytest.mark.skipif(not multiplies_bf16(torch.device("cpu")), reason="a CPU without bf16")
def test_kernels_of_old_shapes_do_not_pile_up() -> None:
    program = """
        bound_kernel_caches()
        w = torch.randn(640, 384, dtype=torch.bfloat16)
        before = resident()
        for rows in range(5, 205):
            torch.randn(rows, 384, dtype=torch.bfloat16) @ w.T
        return_freed(LARGE)
        print(resident() - before)
    """
    kept = megabytes(program, **dict.fromkeys(CACHES, "1024"))  # the libraries' own defaults
    assert megabytes(program) < kept / 3


@linux
@pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="not glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    program = """
        kept = []
        for _ in range(2000):
            big = torch.ones(25_000)  # 100 kB
            kept.append((big, torch.ones(16)))
        held = resident()
        kept = [small for _, small in kept]  # holes below the top of the heap
        del big
        return_freed(LARGE)
        print(held - resident())
    """
    assert megabytes(program) > 150


def test_a_users_own_cache_sizes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHES[0], "7")
    monkeypatch.delenv(CACHES[1], raising=False)
    bound_kernel_caches()
    assert [os.environ[name] for name in CACHES] == ["7", "1"]


def test_wrong_guesses_do_not_stay_in_the_cache(tmp_path: Path) -> None:
    write_policy_run(tmp_path)
    policy = Policy(tmp_path / "model", SROConfig(lora=False, bf16=False))
    prompt = max(len(policy.prompter.prompt(c)) for c in SENTENCES)
    lengths: list[int] = []

    def note(_: object, __: object, options: dict[str, torch.Tensor]) -> None:
        lengths.append(options["attention_mask"].shape[1])

    policy.model.register_forward_pre_hook(note, with_kwargs=True)
    samples = rollout(policy, SENTENCES, samples=2, max_new_tokens=40)
    longest = prompt + max(len(s.ids) for s in samples)
    assert len(lengths) > 20  # the comment is a poor draft of a random model's answers
    assert max(lengths) < 1.25 * longest + 7


def test_on_a_cpu_an_adapter_is_trained_with_checkpoints(tmp_path: Path) -> None:
    write_policy_run(tmp_path)

    def passes(**options: object) -> int:
        settings = SROConfig(bf16=False, **options)  # type: ignore[arg-type]
        policy = Policy(tmp_path / "model", settings)
        seen: list[int] = []
        layer = policy.model.get_submodule(
            next(n for n, _ in policy.model.named_modules() if n.endswith("layers.0.mlp"))
        )
        layer.register_forward_pre_hook(lambda *_: seen.append(1))
        group = Group(policy.prompter.prompt(SENTENCES[0]), [policy.prompter.answer("fine")])
        policy.logprobs(policy.pack([group])).sum().backward()
        return len(seen)

    assert passes(lora=True) == 2  # once more in the backward pass
    assert passes(lora=True, gradient_checkpointing=False) == 1
    assert passes(lora=False) == 1
