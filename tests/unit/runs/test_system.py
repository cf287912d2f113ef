"""The memory of a training on a machine with several GPUs, with a driver that is made up."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from patchcore.experiments.results import _memory_mib
from patchcore.runs.system import SystemSampler

GIB = 1 << 30


def driver(processes: dict[int, list[tuple[int, int | None]]]) -> Any:
    """A driver with two GPUs: a stranger uses 60 GiB of GPU 0; `processes` has (pid, bytes) of each GPU."""

    def running(handle: int) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes.get(handle, [])]

    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=(60, 12)[handle] * GIB, total=80 * GIB),
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=50),
        nvmlDeviceGetTemperature=lambda *_: 60,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetPowerUsage=lambda _: 200_000,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}abc".encode(),
        nvmlDeviceGetComputeRunningProcesses=running,
    )


@pytest.mark.parametrize(
    ("visible", "own", "expected_gib"),
    [
        (None, 10, 10),  # the driver says how much is this training's
        ("1", None, 12),  # it does not: all of the GPU that the training may use
        ("GPU-1", None, 12),
        (None, None, 60),
    ],
)
def test_memory_is_that_of_the_training(
    visible: str | None, own: int | None, expected_gib: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    used = None if own is None else own * GIB
    monkeypatch.setitem(sys.modules, "pynvml", driver({0: [(1, 60 * GIB)], 1: [(os.getpid(), used)]}))
    sample = SystemSampler(tmp_path, os.getpid()).sample()
    assert [gpu["index"] for gpu in sample["gpus"]] == [0, 1]
    path = tmp_path / "system.jsonl"
    path.write_text(json.dumps(sample) + "\n", encoding="utf-8")
    assert _memory_mib(path, True) == expected_gib * 1024
    assert _memory_mib(path, False) < 4096  # on a CPU: of the process
