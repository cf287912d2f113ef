"""Fingerprints of invented cases for tests: one lesion per case, with everything known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from patchcore.datasets.fingerprint import build_fingerprint
from patchcore.datasets.layouts import Layout
from patchcore.datasets.measures import CaseHu, CaseMeasures
from patchcore.lesions.measure import LesionSpans
from patchcore.lesions.table import LESION_COLUMNS, lesions_from_json, no_lesions
from patchcore.study.cases import CaseRecord, FileStamp
from patchcore.volumes.ct import examine_ct_array
from patchcore.volumes.types import HuHistogram


def histogram(values: np.ndarray[Any, Any]) -> HuHistogram:
    """Return the histogram of all voxels of a volume that is one single lesion."""
    volume = values.reshape(-1, 1, 1)
    return examine_ct_array(
        volume,
        LesionSpans(
            lesion=np.zeros(1, np.int32),
            origin=np.zeros((1, 3), np.int32),
            length=np.array([len(values)], np.int32),
            axis=0,
            voxel_count=np.array([len(values)]),
        ),
    ).within


def measures(case_id: str = "p1_a", *, volume: float = 8.0, orientation: str = "LPS", hu: bool = True) -> Any:
    """Return the measures of a case with one lesion of label 1."""
    record = CaseRecord(
        case_id=case_id,
        patient=case_id.split("_")[0],
        image=Path(f"/data/image/{case_id}.nii"),
        label=Path(f"/data/mask/{case_id}.nii"),
        status="accepted",
        shape=(10, 20, 30),
        spacing=(1.0, 2.0, 4.0),
        orientation=orientation,
        labels=(1,),
        image_stamp=FileStamp(size=5, mtime_ns=6),
        label_stamp=FileStamp(size=7, mtime_ns=8),
    )
    row = {
        "label": 1, "voxel_count": 1, "volume_mm3": volume, "equivalent_diameter_mm": 2.5,
        "longest_axial_diameter_mm": 0.0, "extent_mm": [1.0, 2.0, 4.0], "centroid_voxel": [0.1, 0.2, 0.3],
        "centroid_mm": [-1.0, 0.5, 1 / 3], "touches_border": True,
        "bbox_start": [0, 0, 0], "bbox_stop": [1, 1, 1],
    }  # fmt: skip
    found = histogram(np.array([1, 2, 2], dtype=np.int16))
    lesions = lesions_from_json({name: [row[name]] for name in LESION_COLUMNS}, no_lesions(record.shape))
    return CaseMeasures(record, lesions, hu=CaseHu(1, found, found) if hu else None)


def build(*items: CaseMeasures) -> Any:
    """Return the fingerprint of cases."""
    return build_fingerprint(
        items,
        layout=Layout("two folders", "because", Path("i"), Path("l"), ()),
        dataset="d",
        grouping="g",
        connectivity=26,
        min_volume_mm3=0.0,
        lesion_label=1,
        lesion_label_reason="only",
        label_names={1: "tumour"},
        quarantined_count=0,
    ).with_hash()
