"""Peers of bench_score.py; runs in an environment of its own: ``python score_peers.py TASK MASKS.npz`` prints JSON."""

from __future__ import annotations

import json
import sys
import time

import numpy as np


def surfel(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> list[float]:
    import surface_distance as sd

    found = sd.compute_surface_distances(truth, prediction, spacing)
    return [
        sd.compute_robust_hausdorff(found, 100),
        sd.compute_robust_hausdorff(found, 95),
        sd.compute_surface_dice_at_tolerance(found, 1.0),
        sd.compute_average_surface_distance(found)[0],
    ]


def mesh(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> list[float]:
    from MeshMetrics import DistanceMetrics

    found = DistanceMetrics(verbose=False)
    found.set_input(truth, prediction, spacing)
    distances, areas = found.distances[:2]
    mean = float(np.dot(np.abs(distances), areas) / areas.sum())
    return [float(found.hd()), float(found.hd(95)), float(found.nsd(1.0)), mean]


def panoptica(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> list[float]:
    from panoptica import (
        ConnectedComponentsInstanceApproximator,
        InputType,
        NaiveThresholdMatching,
        Panoptica_Evaluator,
    )

    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(),
    )
    result = evaluator.evaluate(prediction, truth, verbose=False)
    result = result["ungrouped"] if isinstance(result, dict) else result
    return [result.tp, result.fp, result.fn, result.sq]


def main() -> None:
    task, path = sys.argv[1:]
    stored = np.load(path)
    truth, prediction = stored["truth"], stored["prediction"]
    spacing = tuple(float(mm) for mm in np.linalg.norm(stored["affine"][:3, :3], axis=0))
    began = time.perf_counter()
    values = {"surfel": surfel, "mesh": mesh, "panoptica": panoptica}[task](truth, prediction, spacing)
    print(json.dumps({"seconds": time.perf_counter() - began, "values": [float(value) for value in values]}))


if __name__ == "__main__":
    main()
