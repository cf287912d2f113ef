"""Measures the memory of one prediction, alone in a process: ``python -m benchmarks.predict_memory`` prints JSON."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np


def network_and_target(window: tuple[int, int, int], classes: tuple[int, ...]) -> tuple[Any, Any]:
    """Return a small UNETR that was not trained, and its plan: lesions of 12³ voxels have the last label."""
    import torch

    from patchcore.config import resolve_config
    from patchcore.models.registry import build_network
    from patchcore.planning import CaseSample, LesionSample, plan_from_samples

    cases = [CaseSample("a", "a", (1.5, 1.5, 1.5), (256, 256, 400))]
    label = classes[-1]
    lesions = [LesionSample("a", label, 12**3 * 1.5**3, (18, 18, 18))]
    plan = plan_from_samples(cases, lesions, lesion_label=label, hu_range="liver", resamples=20, window_size=window)
    target = plan.target.model_copy(update={"classes": classes, "spacing": (1.5, 1.5, 1.5)})
    torch.manual_seed(0)
    return build_network(target, resolve_config(settings=["model.preset=tiny"]).model), target


def _anonymous_kib() -> int:
    """Memory of this process without mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def main() -> None:
    import nibabel

    from patchcore.config.run import TrainConfig
    from patchcore.inference.outputs import Wanted
    from patchcore.inference.predict import _predict_scan
    from patchcore.inference.predictor import Predictor
    from patchcore.inference.scans import found_scans
    from patchcore.models.device import place

    network, target = network_and_target((96, 96, 96), (1, 2))
    placement = place(TrainConfig(device="cpu"))
    predictor = Predictor.of_network(placement.network(network), target, placement, overlap=0.25)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        image = np.random.default_rng(0).integers(-200, 300, (512, 512, 600), dtype=np.int16)
        nibabel.save(nibabel.Nifti1Image(image, np.diag([0.75, 0.75, 1.0, 1.0])), path)
        del image
        before, most, stop = _anonymous_kib(), [0], threading.Event()

        def watch() -> None:
            while not stop.wait(0.01):
                most[0] = max(most[0], _anonymous_kib())

        thread = threading.Thread(target=watch)
        thread.start()
        began = time.perf_counter()
        with found_scans(path) as [scan]:
            wanted = Wanted(labels=True, tables=False, probabilities=False, seg=None)
            _predict_scan(predictor, scan, Path(folder) / "out.nii.gz", wanted, None)
        seconds = time.perf_counter() - began
        stop.set()
        thread.join()
    print(json.dumps({"mib": (most[0] - before) / 1024, "seconds": seconds}))


if __name__ == "__main__":
    main()
