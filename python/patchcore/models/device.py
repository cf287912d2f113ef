"""Chooses device, precision, CPU threads and deterministic kernels for a training."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchcore.config.run import TrainConfig, check_launched, check_shares
from patchcore.errors import ConfigError
from patchcore.launched import Launched
from patchcore.threads import core_count

__all__ = ["Placement", "keep_memory", "place", "settings_kept"]

_COMPILER = "torch._inductor.config"


@dataclass(frozen=True)
class Placement:
    """Device, precision and threads of a training.

    Attributes:
        device: The torch device.
        autocast: The reduced precision of autocast, or None for full float32.
        threads: Number of CPU threads of torch.
        ranks: Number of processes that share a step.
    """

    device: torch.device
    autocast: torch.dtype | None
    threads: int
    ranks: int = 1

    @property
    def machine(self) -> dict[str, Any]:
        """Facts that must be equal so that a resumed run repeats an uninterrupted one bit for bit."""
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
        """Use the chosen precision within the block."""
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            yield

    def network(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in channels-last memory: faster on CPUs and on tensor cores."""
        return network.to(self.device).to(memory_format=torch.channels_last_3d)


def place(config: TrainConfig, rank: int = 0, *, by: Launched | None = None) -> Placement:
    """Choose device, precision and threads, and configure torch for them.

    Args:
        config: ``device``, ``precision``, ``threads``, ``ranks`` and ``deterministic`` are used.
        rank: Number of the process. It uses the GPU of that number and its share of the CPU cores.
        by: The place of the process among those of a launcher. They are the ranks: its GPU is that of its number on
            this host, and its share of the cores is that of a process of this host.

    Raises:
        ConfigError: CUDA is requested but not available, there are fewer GPUs than ranks, the batch cannot be divided
            among the ranks, bf16 is requested on a CPU, or `by` contradicts ``ranks``.
    """
    local_ranks, threads = (by.local_world, by.threads) if by else (None, None)
    if by is not None:
        check_launched(config, by)
        rank = by.local_rank
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError(
            "train.device is cuda, but torch sees no CUDA device",
            remedy="set train.device=auto or cpu, or check the driver (nvidia-smi) and that torch has CUDA support",
        )
    gpus = torch.cuda.device_count() if available and config.device != "cpu" else 0
    ranks = by.world if by else config.ranks or max(1, gpus)
    local_ranks = local_ranks or ranks
    if by and gpus == 1:
        rank = 0  # srun gives each task a GPU that is the only one it sees
    elif local_ranks > 1 and 0 < gpus < local_ranks:
        raise ConfigError(
            f"{local_ranks} ranks on this host, but torch sees {gpus} CUDA device{'' if gpus == 1 else 's'}",
            remedy="start one process per GPU, or set train.device=cpu"
            if by
            else "set train.ranks=0 to use all GPUs, or train.device=cpu",
        )
    check_shares(config, ranks)
    device = torch.device("cpu") if not gpus else torch.device("cuda", rank) if ranks > 1 else torch.device("cuda")
    if config.precision == "bf16" and device.type == "cpu":
        raise ConfigError(
            "train.precision is bf16 on a CPU, where gradients of small convolutions become NaN (oneDNN)",
            remedy="set train.precision=fp32 or auto",
        )
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    threads = config.threads or threads or max(1, core_count() // local_ranks)
    torch.set_num_threads(threads)
    if config.deterministic:
        # cuBLAS reads this variable on first use; without it torch refuses deterministic mode.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        # Memory-efficient attention has no deterministic backward pass; flash attention and plain attention have one.
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    compiles = config.compile in ("default", "graphs") or (config.compile == "auto" and device.type == "cuda")
    _refuse_nondeterminism(config.deterministic, compiles=compiles)
    # Otherwise deterministic mode fills every new tensor with NaN, to reveal reads of uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Placement(device=device, autocast=torch.bfloat16 if bf16 else None, threads=threads, ranks=ranks)


def _refuse_nondeterminism(refuse: bool, *, compiles: bool, warns: bool = False) -> None:
    """Let torch refuse operations without a deterministic form, or allow them again.

    ``torch.use_deterministic_algorithms`` imports the compiler to inform it. This takes seconds, which a run that does
    not compile should not spend.
    """
    if compiles:
        torch.use_deterministic_algorithms(refuse, warn_only=warns)
    else:
        torch.set_deterministic_debug_mode("default" if not refuse else "warn" if warns else "error")


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore torch's process-wide settings at the end of the block, for calls from a notebook."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    threads, benchmark = torch.get_num_threads(), cudnn.benchmark
    deterministic, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    efficient = cuda.mem_efficient_sdp_enabled()  # type: ignore[no-untyped-call]
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    cublas = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark = benchmark
        _refuse_nondeterminism(deterministic, compiles=_COMPILER in sys.modules, warns=warns)
        cuda.enable_mem_efficient_sdp(efficient)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        if cublas is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def keep_memory() -> None:
    """Make this process keep freed memory for the next step, if there is no GPU.

    By default glibc returns the memory of every large tensor to the system and requests it again, page by page: 1.7
    million page faults and a quarter of the time of a step with window 96³. The cost is memory that is unused between
    steps, about a quarter of the peak. Without glibc this function does nothing.
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
