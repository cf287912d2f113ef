"""Every numbered example runs as a user would run it and prints the expected results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from real_data import DATA, needs_data

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *arguments],
        cwd=folder, capture_output=True, encoding="utf-8", check=False, env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == [], "an example leaves nothing behind"
    return done.stdout


def test_measuring_a_cohort(tmp_path: Path) -> None:
    shown = run("02_measure_a_cohort.py", folder=tmp_path)
    assert shown.count(": accepted, ") == 6
    for words in ("median spacing", "in the median patient", "largest lesion:", "lesion_volumes.svg"):
        assert words in shown


@needs_data
def test_measuring_a_real_cohort(tmp_path: Path) -> None:
    shown = run("02_measure_a_cohort.py", str(DATA / "sts"), folder=tmp_path)
    assert "8 lesions, mean 48" in shown


def test_planning_with_reasons(tmp_path: Path) -> None:
    shown = run("03_plan_with_reasons.py", folder=tmp_path)
    large, small = shown.split("== small")
    for part in (large, small):
        assert "patch size (" in part
        assert part.count("of the lesions are smaller than one patch") == 4
        assert part.count("  rule ") == 5
    edge = [float(part.split("at half the spacing: p* ")[1].split()[0]) for part in (large, small)]
    assert edge[0] > edge[1], "larger lesions give larger patches"


def test_preparing_a_store(tmp_path: Path) -> None:
    shown = run("04_prepare_a_store.py", folder=tmp_path)
    assert shown.count("voxels, ") == 3
    for words in ("training grid:", "MB of voxels", "verified:", "HU on average"):
        assert words in shown


def test_reading_windows(tmp_path: Path) -> None:
    shown = run("05_read_windows.py", folder=tmp_path)
    assert "windows (2, 32, 32, 16) float32" in shown
    assert "bfloat16: 65536 bytes instead of 131072" in shown
    assert float(shown.split("largest difference ")[1].split(" HU")[0]) < 0.01


def test_feeding_a_training(tmp_path: Path) -> None:
    shown = run("06_feed_a_training.py", folder=tmp_path)
    assert "same windows: True" in shown
    assert "'lesion'" in shown
    assert "from a DataLoader: 8 windows" in shown


@needs_data
def test_real_data_in_each(tmp_path: Path) -> None:
    assert "HU on average" in run("04_prepare_a_store.py", str(DATA / "sts"), folder=tmp_path)
    files = [str(DATA / "lidc_0314" / name) for name in ("image.nii.gz", "mask.nii.gz")]
    assert "largest difference " in run("05_read_windows.py", *files, folder=tmp_path)
    assert "same windows: True" in run("06_feed_a_training.py", str(DATA / "lidc_nodules"), folder=tmp_path)


def test_regrets_over_cohorts(tmp_path: Path) -> None:
    study = EXAMPLES.parent / "docs" / "phantom-study"
    reports = [str(study / name) for name in ("p6", "p12")]
    rows = [line.split(" | ") for line in run("regret_table.py", *reports, folder=tmp_path).splitlines()[2:]]
    found = {row[0].strip("| "): row[1:] for row in rows}
    assert found["rule mean-volume"][0] == "-0.005 [-0.020, +0.011] (8)"
    assert found["rule mean-volume"][1] == "+0.024 [+0.004, +0.045] (12)"
    assert found["always patch 12"][1] == "+0.024 [+0.004, +0.045]"
    # The mean of -0.0046 and 0.0243; with two cohorts, t is 12.7.
    assert found["rule mean-volume"][2] == "+0.010 [-0.174, +0.193], n = 2 |"
    assert len(found) == 9
    wrong = subprocess.run([sys.executable, EXAMPLES / "regret_table.py", tmp_path], capture_output=True, check=False)
    assert wrong.returncode == 2
    assert b"expected rules.csv and regret.csv" in wrong.stderr
