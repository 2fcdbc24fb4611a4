"""What figures were measured on: processor, threads, versions."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PROC, _SYS = Path("/proc"), Path("/sys")
# Vector instructions that decide how fast matrices are multiplied, the best first.
_SIMD = ("amx_int8", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "i8mm", "asimddp", "asimd")
_PACKAGES = ("sro-edge", "llama-cpp-python", "onnxruntime", "torch", "transformers", "pyarrow")


def describe_machine() -> dict[str, Any]:
    """Processor, its best vector instructions, usable physical cores, versions of the packages."""
    lines = (line.partition(":") for line in _read(_PROC / "cpuinfo").splitlines())
    about = {name.strip(): value.strip() for name, _, value in lines}
    flags = set(about.get("flags", about.get("Features", "")).split())
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": about.get("model name") or platform.processor(),
        "simd": next((name for name in _SIMD if name in flags), "unknown"),
        "cores": physical_cores(),
        "python": platform.python_version(),
        "versions": versions,
    }


def physical_cores() -> int:
    """Cores this process may use, the hyper-threads of one core counted once.

    Those that its affinity leaves it, and no more than the CPU quota of its control group (a
    container's ``--cpus``), rounded up.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # only Linux has it
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        topology = _SYS / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            cores.add(topology.read_text("ascii"))
        except OSError:
            cores.add(str(cpu))
    quota = cpu_quota()
    return len(cores) if quota is None else max(1, min(len(cores), math.ceil(quota)))


def cpu_quota() -> float | None:
    """CPUs' worth of time that the control groups of this process allow it; None: no limit."""
    found = [*_quotas_v2(), *_quotas_v1()]
    return min(found, default=None)


def _quotas_v2() -> Iterator[float]:
    """Of the process's group and all above it; a container sees its own group as the root."""
    root = _SYS / "fs/cgroup"
    for folder in _lineage(root, _groups().get("", "/")):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            yield int(quota) / int(period)


def _quotas_v1() -> Iterator[float]:
    groups = _groups()
    for controllers, name in groups.items():
        if "cpu" in controllers.split(","):
            for folder in _lineage(_SYS / "fs/cgroup/cpu", name):
                quota = _read(folder / "cpu.cfs_quota_us").strip()
                period = _read(folder / "cpu.cfs_period_us").strip()
                if quota.isdigit() and period.isdigit():  # -1: no limit
                    yield int(quota) / int(period)


def _groups() -> dict[str, str]:
    """Controllers, "" for those of version 2 -> control group of this process."""
    lines = (line.split(":", 2) for line in _read(_PROC / "self/cgroup").splitlines())
    return {parts[1]: parts[2] for parts in lines if len(parts) == 3}


def _lineage(root: Path, group: str) -> list[Path]:
    folder = root / group.strip("/")
    return [folder, *folder.parents][: len(folder.parts) - len(root.parts) + 1]


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except (OSError, ValueError):
        return ""


def peak_memory_mb() -> float | None:
    """Most memory that this process has had resident so far; None where it cannot be known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
