"""``patchcore check``: printed output, JSON, exit codes; and no findings on real data."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from patchcore.cli import main
from patchcore.datasets import check as checking
from patchcore.datasets.checks import CHECKS
from real_data import DATA, needs_data

AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])
AFFINE[:3, 3] = 100, 80, -40


def put(root: Path, name: str, seed: int, affine: Any = AFFINE, shape: tuple[int, ...] = (24, 20, 12)) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(40, 60, shape).astype(np.int16)
    image[:2] = -1000
    label = np.zeros(shape, np.uint8)
    label[4 : 8 + seed, 4:8, :3] = 1
    for folder, array in (("images", image), ("labels", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), root / folder / f"{name}.nii.gz")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for seed, name in enumerate(("P1_a", "P1_b", "P2_a")):
        put(root, name, seed)
    return root


def test_a_clean_data_set_is_zero(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in dataset.rglob("*"))
    assert main(["check", str(dataset)]) == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in dataset.rglob("*")) == before
    out, err = capsys.readouterr()
    assert "3 cases" in out
    assert "Every case can be used." in out
    assert "Checking: 3 of 3" in err


def test_geometry_is_three_until_it_is_decided(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(dataset, "P3_a", 3, np.eye(4), (256, 256, 4))
    assert main(["check", str(dataset)]) == 3
    out = capsys.readouterr().out
    assert "identity-affine in 1 case" in out
    assert f"patchcore analyze {dataset} STUDY --spacing P3_a=A,B,C" in out
    assert f"patchcore analyze {dataset} STUDY --accept P3_a:identity-affine" in out
    assert main(["check", str(dataset), "--accept", "P3_a:identity-affine"]) == 0
    assert main(["check", str(dataset), "--spacing", "P3_*=0.8,0.8,2.5"]) == 0
    assert main(["check", str(dataset), "--exclude", "P3_a"]) == 0


def test_json_says_all_and_one_bad_case_stops_nothing(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "images" / "P1_b.nii.gz").write_bytes(b"no image")
    assert main(["check", str(dataset), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert not report["ok"]
    assert report["status_counts"] == {"accepted": 2, "quarantined": 1}
    assert report["finding_counts"] == {"error": 1, "geometry": 0, "warning": 0}
    (bad,) = [case for case in report["cases"] if case["status"] == "quarantined"]
    assert bad["case_id"] == "P1_b"
    assert "P1_b.nii.gz" in bad["reason"]
    assert "--exclude P1_b" in bad["remedy"]


def test_the_list_holds_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in CHECKS)
    assert main(["check", "--list", "--json"]) == 0
    assert [row["check"] for row in json.loads(capsys.readouterr().out)["checks"]] == list(CHECKS)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["nowhere"],
        ["DATA", "--accept", "P1_a:pair-shape"],
        ["DATA", "--accept", "P9_a:unit-spacing"],
        ["DATA", "--spacing", "P9_a=1,1,1"],
        ["DATA", "--spacing", "P1_a=1,1"],
        ["DATA", "--exclude", "P9_a"],
        ["DATA", "--threads", "0"],
    ],
)
def test_usage_is_two(dataset: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *(str(dataset) if option == "DATA" else option for option in options)]) == 2
    assert capsys.readouterr().err


def test_ctrl_c_drops_what_was_not_begun(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    real = checking.check_case
    interrupted = threading.Event()

    def slow(record: Any, settings: Any) -> Any:
        begun.append(record.case_id)
        if len(begun) > 1:
            interrupted.wait(60)
        return real(record, settings)

    def interrupt(_: Any) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(checking, "check_case", slow)
    with pytest.raises(KeyboardInterrupt):
        checking.check_dataset(dataset, threads=1, progress=interrupt)
    assert len(begun) < 3


def test_a_missing_image_does_not_hide_the_label_map(dataset: Path) -> None:
    image, label = (dataset / folder / "P1_a.nii.gz" for folder in ("images", "labels"))
    image.unlink()
    image.symlink_to("nowhere")
    array = np.zeros((24, 20, 12), np.int16)
    array[3:5, 3:5, 3:5] = -1
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), label)
    (bad,) = [case for case in checking.check_dataset(dataset).cases if case.status == "quarantined"]
    assert len([item for item in bad.findings if item.level == "error"]) == 2
    assert "label-negative" in [item.check for item in bad.findings]


def test_the_regex_decides_who_is_a_patient(dataset: Path) -> None:
    rows = [f"{name},images/{name}.nii.gz,labels/{name}.nii.gz,someone" for name in ("P1_a", "P1_b", "P2_a")]
    (dataset / "list.csv").write_text("\n".join(["case_id,image,label,patient", *rows]))
    by_list = checking.check_dataset(dataset / "list.csv")
    assert {case.patient for case in by_list.cases} == {"someone"}
    by_regex = checking.check_dataset(dataset / "list.csv", patient_regex=r"(P\d)_.*")
    assert {case.patient for case in by_regex.cases} == {"P1", "P2"}


@needs_data
@pytest.mark.parametrize("name", ["sts", "lidc_nodules"])
def test_real_data_trips_nothing(name: str) -> None:
    report = checking.check_dataset(DATA / name)
    assert [record.case_id for record in report.cases if record.findings] == []
