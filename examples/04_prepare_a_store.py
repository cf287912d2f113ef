"""Resample every scan of a data set once to one spacing, write it to a compressed store, and read the store.

    python examples/04_prepare_a_store.py [DATASET]

DATASET is any folder that `patchcore analyze` can read. Without DATASET, the script creates phantoms. The store is
plain Zarr, so any Zarr library can open it. If the preparation is interrupted, the next call continues it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import patchcore as pc


def main(dataset: Path | None, folder: Path) -> None:
    if dataset is None:
        dataset = pc.make_phantoms(folder / "data", preset="large", cases=3, seed=1, shape=(96, 96, 48))
    study = pc.analyze(dataset, folder / "study")
    plan = pc.plan_patch_size(study)
    print(f"training grid: {' × '.join(f'{mm:.3g}' for mm in plan.spacing)} mm")

    # Files are read plane by plane and written shard by shard, so 256 MiB are enough for a scan of any length.
    done = pc.prepare(study, max_memory_bytes=512 << 20)
    for failed in done.failed:
        print(f"{failed.case_id} was skipped: {failed.error}")

    raw = stored = 0
    for case in done.cases:
        size = sum(file.stat().st_size for file in case.path.rglob("*") if file.is_file())
        raw, stored = raw + case.image_bytes, stored + size
        print(f"{case.case_id}: {case.shape} voxels, {len(case.lesion_voxels)} lesions, {size / 1e6:.1f} MB")
    print(f"{stored / 1e6:.1f} MB stored for {raw / 1e6:.1f} MB of voxels")

    # Every chunk has a checksum.
    case = done.cases[0]
    print(f"verified: {case.image_array.verify().chunks} chunks of {case.case_id}")

    # HU in the lesions: image and class indices have the same shape.
    lesion = case.image()[case.label() > 0]
    if lesion.size:
        print(f"lesions of {case.case_id}: {lesion.mean():.0f} HU on average")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None, Path(temporary))
