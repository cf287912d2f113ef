"""Measures GPU, CPU and RAM for ``system.jsonl``. Quantities that cannot be measured are omitted."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["SystemSampler"]


class SystemSampler:
    """Measures the machine, and the trainer with all its child processes.

    Args:
        folder: A path on the file system to measure free space on.
        pid: Process id of the trainer.
    """

    def __init__(self, folder: Path, pid: int) -> None:
        self._folder = folder
        self._processes: dict[int, Any] = {}
        self._pid = pid
        self._psutil: Any = None
        self._nvml: Any = None
        self._gpus: list[Any] = []
        with suppress(ImportError):
            import psutil

            self._psutil = psutil
            psutil.cpu_percent()  # the first call only starts the measurement
        with suppress(Exception):  # without library, driver or GPU, the exceptions differ
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]

    def sample(self) -> dict[str, Any]:
        """Return one sample: times in s, memory in bytes, loads in percent (for the trainer: percent of one core)."""
        record: dict[str, Any] = {"v": 1, "t": time.time(), "mono": time.monotonic()}
        with suppress(OSError):
            disk = os.statvfs(self._folder)
            record["disk_free_bytes"] = disk.f_bavail * disk.f_frsize
        if self._psutil is not None:
            memory = self._psutil.virtual_memory()
            record["cpu_percent"] = self._psutil.cpu_percent()
            record["ram_used_bytes"] = memory.total - memory.available
            record["ram_total_bytes"] = memory.total
            record |= self._trainer()
        gpus = [gpu for gpu in (self._gpu(index, handle) for index, handle in enumerate(self._gpus)) if gpu]
        if gpus:
            record["gpus"] = gpus
        return record

    def _trainer(self) -> dict[str, Any]:
        psutil = self._psutil
        try:
            root = self._processes.setdefault(self._pid, psutil.Process(self._pid))
            family = {process.pid: process for process in (root, *root.children(recursive=True))}
        except psutil.Error:
            return {}
        # Keep the objects between samples: psutil measures CPU load between two calls on the same object.
        self._processes = {pid: self._processes.get(pid, process) for pid, process in family.items()}
        rss, load = 0, 0.0
        for process in self._processes.values():
            with suppress(psutil.Error):
                rss += process.memory_info().rss
                load += process.cpu_percent()
        return {
            "trainer_rss_bytes": rss,
            "trainer_cpu_percent": load,
            "trainer_processes": len(self._processes),
        }

    def _is_visible(self, index: int, handle: Any) -> bool:
        """Return whether the trainer can use a GPU; it has the environment of this process."""
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is None:
            return True
        uuid = self._nvml.nvmlDeviceGetUUID(handle)
        uuid = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
        names = [part.strip() for part in chosen.split(",")]
        return any(name == str(index) or (name and uuid.startswith(name)) for name in names)

    def _gpu(self, index: int, handle: Any) -> dict[str, Any]:
        nvml = self._nvml
        record: dict[str, Any] = {}
        with suppress(Exception):  # a failing GPU must not end the sampling
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            record = {"index": index, "memory_used_bytes": memory.used, "memory_total_bytes": memory.total}
            record["load_percent"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
            record["temperature_c"] = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            record["power_w"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
        with suppress(Exception):
            record["is_visible"] = self._is_visible(index, handle)
            own = [one for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if one.pid in self._processes]
            if own and all(one.usedGpuMemory is not None for one in own):  # in a container, other ids may be seen
                record["trainer_memory_bytes"] = sum(one.usedGpuMemory for one in own)
        return record
