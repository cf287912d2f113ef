"""Where a training computes: device, precision, threads, and how repeatable its kernels are."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchcore.config.run import TrainConfig, check_shares
from patchcore.errors import ConfigError

__all__ = ["Placement", "core_count", "keep_memory", "place"]


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Placement:
    """Where and how to compute.

    Attributes:
        device: The torch device.
        autocast: The reduced precision of autocast, or None for full float32.
        threads: CPU threads of torch.
        ranks: Processes that share a step.
    """

    device: torch.device
    autocast: torch.dtype | None
    threads: int
    ranks: int = 1

    @property
    def machine(self) -> dict[str, Any]:
        """What must be equal for a resume to repeat an unbroken run bit for bit."""
        return {
            "device": self.device.type,
            "processor": _processor(self.device),
            "torch": torch.__version__,
            "threads": self.threads,
            "precision": "fp32" if self.autocast is None else "bf16",
            "ranks": self.ranks,
        }

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Compute in the chosen precision within the block."""
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            yield

    def network(self, network: nn.Module) -> nn.Module:
        """Move a network here, in channels-last memory: faster on CPUs, and what tensor cores want."""
        return network.to(self.device).to(memory_format=torch.channels_last_3d)


def place(config: TrainConfig, rank: int = 0) -> Placement:
    """Choose device, precision and threads, and set torch up for them.

    Args:
        config: ``device``, ``precision``, ``threads``, ``ranks`` and ``deterministic`` count.
        rank: The process; its GPU is that of the number, its threads are its share of the cores.

    Raises:
        ConfigError: CUDA was asked for and there is none, or less GPUs than ranks.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError(
            "train.device is cuda, but torch sees no CUDA device",
            remedy="set train.device=auto or cpu, or check the driver (nvidia-smi) and that torch is a CUDA build",
        )
    gpus = torch.cuda.device_count() if available and config.device != "cpu" else 0
    ranks = config.ranks or max(1, gpus)
    if ranks > 1 and 0 < gpus < ranks:
        raise ConfigError(
            f"train.ranks is {ranks}, but torch sees {gpus} CUDA device{'' if gpus == 1 else 's'}",
            remedy="set train.ranks=0 for all of them, or train.device=cpu",
        )
    check_shares(config, ranks)
    device = torch.device("cpu") if not gpus else torch.device("cuda", rank) if ranks > 1 else torch.device("cuda")
    if config.precision == "bf16" and device.type == "cpu":
        raise ConfigError(
            "train.precision is bf16 on a CPU, where gradients of small convolutions come out as no numbers (oneDNN)",
            remedy="set train.precision=fp32 or auto",
        )
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    threads = config.threads or max(1, core_count() // ranks)
    torch.set_num_threads(threads)
    if config.deterministic:
        # cuBLAS reads this when it is first used; without it torch refuses its deterministic mode.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        # Memory-efficient attention has no repeatable backward pass; flash and plain ones have.
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.use_deterministic_algorithms(config.deterministic)
    # Otherwise every new tensor is filled with NaN first, to show who reads what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Placement(device=device, autocast=torch.bfloat16 if bf16 else None, threads=threads, ranks=ranks)


def keep_memory() -> None:
    """Have this process keep the memory that it frees, for the next step to use again, where there is no GPU.

    glibc otherwise gives every large tensor back to the system and takes it anew, page by page: 1.7 million page faults
    and a quarter of the time of a step of 96³. Costs what is unused between steps, about a quarter of the peak. Without
    glibc nothing happens.
    """
    if torch.cuda.is_available():
        return
    mmap_max, trim_threshold, arena_max = -4, -1, -8
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((mmap_max, 0), (trim_threshold, -1), (arena_max, 1)):
        mallopt(option, value)


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
