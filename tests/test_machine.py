"""How many cores this process may use, on machines that are made up of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sro_edge import machine


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 cores with two hyper-threads each, on all of which this process may run."""
    monkeypatch.setattr(machine, "_SYS", tmp_path / "sys")
    monkeypatch.setattr(machine, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    for cpu in range(16):
        write(
            tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list",
            f"{cpu % 8},{cpu % 8 + 8}\n",
        )
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_hyper_threads_are_no_cores(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.physical_cores() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 8, 3})
    assert machine.physical_cores() == 2


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", 8)],
)
def test_a_container_has_its_quota_only(root: Path, quota: str, cores: int) -> None:
    write(root / "proc/self/cgroup", "0::/\n")
    write(root / "sys/fs/cgroup/cpu.max", f"{quota}\n")
    assert machine.physical_cores() == cores


def test_the_smallest_quota_above_a_group_counts(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/user.slice/job\n")
    write(root / "sys/fs/cgroup/user.slice/job/cpu.max", "max 100000\n")
    write(root / "sys/fs/cgroup/user.slice/cpu.max", "300000 100000\n")
    assert machine.physical_cores() == 3


def test_quotas_of_the_first_version_of_control_groups(root: Path) -> None:
    write(root / "proc/self/cgroup", "4:memory:/pod\n3:cpu,cpuacct:/pod\n0::/\n")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert machine.physical_cores() == 8
    write(root / "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us", "400000\n")
    write(root / "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us", "100000\n")
    assert machine.physical_cores() == 4


def test_this_machine_has_a_core() -> None:
    assert 1 <= machine.physical_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("cpuinfo", "processor", "simd"),
    [
        ("model name\t: Fast 9\nflags\t\t: sse avx2\n", "Fast 9", "avx2"),
        ("model name\t: Fast 9\nflags\t\t: avx2 avx512_vnni avx512f\n", "Fast 9", "avx512_vnni"),
        ("Features\t: fp asimd asimddp\n", "any", "asimddp"),
        ("", "any", "unknown"),
    ],
)
def test_the_processor_and_its_vector_instructions_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, processor: str, simd: str
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine.platform, "processor", lambda: "any")
    found = machine.describe_machine()
    assert (found["processor"], found["simd"]) == (processor, simd)
