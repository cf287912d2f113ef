"""Finds the group of a plan in the store. Each set of decisions that changes the voxels has its own group."""

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

STORE_SCHEMA = 3


def store_folder(study: Study, target: TargetPlan) -> Path:
    """Return the store folder that belongs to a plan. The folder may not exist yet."""
    return study.path / "store.zarr" / _key(target)


def _decided(target: TargetPlan) -> dict[str, Any]:
    ignored = {} if target.ignore_label is None else {"ignore_label": target.ignore_label}
    return ignored | {
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
    """Write ``zarr.json`` of the folders above the cases, so that the store opens as one Zarr hierarchy."""
    for folder, attributes in ((root.parent, {"schema_version": STORE_SCHEMA}), (root, _decided(target))):
        if not (folder / "zarr.json").exists():
            write_json_atomic(folder / "zarr.json", group_metadata({"patchcore": attributes}))
