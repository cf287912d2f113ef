"""Where the cases of a plan lie in the store: one group per set of decisions that the voxels depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from patchcore.config.plan import TargetPlan
from patchcore.files import write_json_atomic
from patchcore.store.layout import group_metadata
from patchcore.study import Study

__all__ = ["STORE_SCHEMA", "store_folder", "write_groups"]

STORE_SCHEMA = 2


def store_folder(study: Study, target: TargetPlan) -> Path:
    """Return the folder of the store that belongs to a plan, whether it is there or not."""
    return study.path / "store.zarr" / _key(target)


def _decided(target: TargetPlan) -> dict[str, Any]:
    return {
        "schema_version": STORE_SCHEMA,
        "spacing": target.spacing,
        "classes": target.classes,
        "lesion_label": target.lesion_label,
        "connectivity": target.connectivity,
        "min_volume_mm3": target.min_volume_mm3,
        "store": target.store.model_dump(mode="json"),
    }


def _key(target: TargetPlan) -> str:
    return hashlib.sha256(json.dumps(_decided(target)).encode()).hexdigest()[:16]


def write_groups(root: Path, target: TargetPlan) -> None:
    """Make the folders above the cases Zarr groups, so that the store opens as one hierarchy."""
    for folder, attributes in ((root.parent, {"schema_version": STORE_SCHEMA}), (root, _decided(target))):
        if not (folder / "zarr.json").exists():
            write_json_atomic(folder / "zarr.json", group_metadata({"patchcore": attributes}))
