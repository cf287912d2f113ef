"""nnU-Net's export of logits, for bench_predict.py; runs in an environment of its own and prints JSON."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np


def main() -> None:
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    folder = Path(sys.argv[1])
    numbers = [float(text) for text in sys.argv[2:]]
    shape, spacing, training = [int(edge) for edge in numbers[:3]], numbers[3:6], numbers[6:]
    logits = np.load(folder / "logits.npy")
    # The settings that nnU-Net's planner writes for every data set.
    resample = partial(resample_data_or_seg_to_shape, is_seg=False, order=1, order_z=0, force_separate_z=None)
    configuration = SimpleNamespace(spacing=training, resampling_fn_probabilities=resample)
    plans = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
    labels = LabelManager({"background": 0, "organ": 1, "lesion": 2}, None)
    properties = {
        "spacing": spacing,
        "shape_after_cropping_and_before_resampling": shape,
        "shape_before_cropping": shape,
        "bbox_used_for_cropping": [[0, edge] for edge in shape],
    }
    began = time.perf_counter()
    found = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, labels, properties
    )
    seconds = time.perf_counter() - began
    np.save(folder / "labels.npy", np.asarray(found))
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
