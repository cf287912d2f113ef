"""Every file that looks like a volume belongs to exactly one case, or is listed as ignored: over generated folders."""

from __future__ import annotations

import csv
import json
import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchcore.datasets.examination import new_record
from patchcore.datasets.labels import Settings
from patchcore.datasets.layouts import find_cases
from patchcore.study.layout import Layout
from patchcore.views.accounting import case_sums, files_json, files_lines

STEMS = (
    "a", "b", "B", "c", "c_0000", "c_0001", os.fsdecode("Ü".encode()),
    "volume-3", "segmentation-3", "VOLUME-04", "imaging", "segmentation",
    "._a", ".b", "img.v2", "x y",
)  # fmt: skip
READ = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz", ".NII.GZ", ".Hdr", ".IMG")
NOT_READ = (
    ".nrrd", ".mha", ".mhd", ".mgz", ".npy", ".npz", ".nii.bz2", ".nii.zst", ".nii.xz", ".hdr.bz2", ".img.zst",
    ".nii.gz.part", ".nii.gz.1", ".nii.zip", ".dcm", ".MHA", ".seg.nrrd", ".nii.nii.gz", ".nii.gz.nii.gz", ".nii.gz.gz",
)  # fmt: skip
OTHER = (".txt", ".json.bak", ".png", "", ".csv.gz", ".nii.gz.md5")
FOLDERS = (
    ".", "image", "mask", "imagesTr", "labelsTr", "imagesTs", "labelsTs", "labels", "extra", "extra/deep", ".hidden",
    "case_00001", "case_00007", "case_x", "data/case_00002", "image/inner", "mask/inner",
)  # fmt: skip
SKELETONS: dict[str, tuple[str, ...]] = {
    "two-folders": ("image/s.nii.gz", "mask/s.nii.gz"),
    "labels-only": ("mask/s.nii.gz",),
    "nnunet": ("imagesTr/s_0000.nii.gz", "labelsTr/s.nii.gz"),
    "lits": ("volume-1.nii", "segmentation-1.nii"),
    "kits": ("case_00003/imaging.nii.gz", "case_00003/segmentation.nii.gz"),
    "msd": ("imagesTr/s.nii.gz", "labelsTr/s.nii.gz"),
    "manifest": ("scans/s.nii.gz", "truth/s.nii.gz"),
}


@dataclass(frozen=True)
class Entry:
    """One entry of a generated folder."""

    folder: str
    name: str
    kind: str


entries = st.lists(
    st.builds(
        Entry,
        folder=st.sampled_from(FOLDERS),
        name=st.builds(str.__add__, st.sampled_from(STEMS), st.sampled_from(READ + NOT_READ + OTHER)),
        kind=st.sampled_from(("file", "file", "file", "file", "full", "folder", "link", "broken link", "loop")),
    ),
    max_size=14,
)


def looks_like_a_volume(name: str) -> bool:
    """Say the same as patchcore, in other words: a part of the name is a volume format, and only packings follow."""
    formats = {"nii", "hdr", "img", "nrrd", "mha", "mhd", "mgz", "npy", "npz", "dcm"}
    after = {"gz", "bz2", "zst", "xz", "zip", "part", "1"}
    parts = name.lower().lstrip(".").split(".")
    at = len(parts) - 1
    while at > 0 and parts[at] in after:
        at -= 1
    return at > 0 and parts[at] in formats


def build(root: Path, layout: str, extra: list[Entry], listed: list[tuple[str, str]]) -> None:
    outside = root.parent / "outside.nii.gz"
    outside.write_bytes(b"")
    for name in SKELETONS[layout]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    for entry in extra:
        folder = root / entry.folder
        path = folder / entry.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):
                continue
            if entry.kind == "folder":
                path.mkdir()
                (path / "inner.nii.gz").write_bytes(b"")
            elif entry.kind == "link":
                path.symlink_to(outside)
            elif entry.kind == "broken link":
                path.symlink_to(root / "nothing")
            elif entry.kind == "loop":
                path.symlink_to(path)
            else:
                path.write_bytes(b"" if entry.kind == "file" else b"not a volume" * 40)
        except (NotADirectoryError, FileExistsError):
            continue
    if layout == "nnunet":
        described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1}, "numTraining": 1}
        (root / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    if layout == "msd":
        pairs = [("imagesTr/s.nii.gz", "labelsTr/s.nii.gz"), *listed]
        lists = {
            "training": [{"image": image, "label": label} for image, label in pairs[::2]],
            "validation": [{"image": image, "label": label} for image, label in pairs[1::2]],
            "test": ["imagesTs/c.nii.gz"],
        }
        (root / "dataset.json").write_text(json.dumps(lists), encoding="utf-8")
    if layout == "manifest":
        with (root / "cases.csv").open("w", encoding="utf-8", newline="") as handle:
            table = csv.writer(handle)
            table.writerow(["case_id", "image", "label"])
            table.writerow(["s", "scans/s.nii.gz", "truth/s.nii.gz"])
            for number, (image, label) in enumerate(listed):
                table.writerow([f"case {number}", image, label])


def volumes_there(root: Path) -> set[str]:
    """Return every file below a folder that looks like a volume; hidden folders are not searched."""
    found = set()
    for place, folders, names in os.walk(root):
        found |= {f"{place}/{name}" for name in (*names, *folders) if looks_like_a_volume(name)}
        folders[:] = [name for name in folders if not name.startswith(".")]
    return found


def files_of(layout: Layout) -> list[str]:
    found: list[Path] = []
    for case in layout.cases:
        for volume in (case.image, case.label):
            found += [] if volume is None else volume.files()
        found += case.others
    return [os.path.normpath(path) for path in found]


def check(layout_name: str, extra: list[Entry], listed: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "data set"
        root.mkdir()
        build(root, layout_name, extra, listed)
        layout = find_cases(root, layout=layout_name)
        there = volumes_there(root)
        used, ignored = set(files_of(layout)), [os.path.normpath(item.path) for item in layout.ignored]
        lost = {name for name in there if name not in used and name not in ignored}
        # The second half of a pair belongs to the first.
        lost -= {name for name in lost if _other_half(name) in used}
        assert not lost, f"{layout_name}: {sorted(lost)}"
        assert len(set(ignored)) == len(ignored)
        assert not set(ignored) & used
        assert layout.cases
        assert all(item.reason for item in layout.ignored)
        ids = Counter(case.case_id for case in layout.cases)
        assert max(ids.values()) == 1, ids
        assert len(layout.cases) == len({case.case_id for case in layout.cases})
        records = [new_record(case, case.case_id, Settings()) for case in layout.cases]
        assert all(record.reason and record.remedy for record in records if record.status == "quarantined")
        assert case_sums([record.status for record in records]).startswith(f"{len(records)} case")
        sums = files_json(layout)
        assert sums["in_cases"] == sum(os.path.lexists(name) for name in used)
        assert sums["ignored_count"] == len(sums["ignored"]) == len(ignored)
        assert re.match(rf"{sums['in_cases']} belongs? to cases, ", files_lines(layout, root)[0])


def _other_half(name: str) -> str:
    for one, other in (
        (".img", ".hdr"),
        (".IMG", ".HDR"),
        (".img.gz", ".hdr"),
        (".img.gz", ".hdr.gz"),
        (".IMG", ".Hdr"),
    ):
        if name.endswith(one) and os.path.lexists(name.removesuffix(one) + other):
            return name.removesuffix(one) + other
    return name


pairs = st.lists(
    st.tuples(
        st.sampled_from(
            ("imagesTr/a.nii.gz", "imagesTr/b.nrrd", "image/a.nii", "nowhere/a.nii.gz", "extra/deep/c.nii")
        ),
        st.sampled_from(("labelsTr/a.nii.gz", "labelsTr/b.nrrd", "mask/a.nii", "nowhere/b.nii.gz", "mask/inner/c.nii")),
    ),
    max_size=4,
)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(layout=st.sampled_from(sorted(SKELETONS)), extra=entries, listed=pairs)
def test_no_volume_vanishes(layout: str, extra: list[Entry], listed: list[tuple[str, str]]) -> None:
    check(layout, extra, listed)


@pytest.mark.slow
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(layout=st.sampled_from(sorted(SKELETONS)), extra=entries, listed=pairs)
def test_no_volume_vanishes_over_many_folders(layout: str, extra: list[Entry], listed: list[tuple[str, str]]) -> None:
    check(layout, extra, listed)
