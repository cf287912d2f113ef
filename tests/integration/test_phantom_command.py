"""``patchcore phantom`` as a process: large volumes in little memory, interruption, and invalid arguments."""

from __future__ import annotations

import csv
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patchcore.cli import main
from patchcore.errors import DataError
from patchcore.lesions.measure import measure_lesions
from patchcore.phantoms import cases_without_room

COMMAND = [sys.executable, "-m", "patchcore", "phantom"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_big_volume_is_not_held(tmp_path: Path) -> None:
    """Eight times the planes need no more memory; a volume of 2.9 GiB held in memory would be visible."""
    script = (
        "import resource, sys\n"
        "from patchcore.phantoms import make_phantoms\n"
        "make_phantoms(sys.argv[1], cases=1, layout='labels-only', shape=(512, 512, int(sys.argv[2])), threads=1)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peak = []
    for planes in ("200", "1600"):
        out = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / planes), planes],
            check=True,
            capture_output=True,
            encoding="utf-8",
        )
        peak.append(int(out.stdout))
    assert peak[1] < peak[0] + 60 * 1024
    label = tmp_path / "1600" / "labels" / "phantom-001.nii.gz"
    rows = (tmp_path / "1600" / "true_lesions.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(measure_lesions(label, labels=[2])) == len(rows) >= 1


def test_interrupted_then_gone_on_with(tmp_path: Path) -> None:
    arguments = ["--cases", "16", "--shape", "72,72,56", "--spacing", "3", "--threads", "2", "--seed", "4"]
    out = tmp_path / "out"
    process = subprocess.Popen([*COMMAND, str(out), *arguments], stderr=subprocess.PIPE, encoding="utf-8")
    deadline = time.monotonic() + 60
    while not list(out.glob("labels/*.nii.gz")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command again to write the missing cases" in errors
    assert not list(out.rglob("*.tmp"))
    assert json.loads((out / "phantoms.unfinished.json").read_text(encoding="utf-8"))["cases"] == 16
    assert not (out / "phantoms.json").exists()
    subprocess.run([*COMMAND, str(out), *arguments], check=True, capture_output=True)
    subprocess.run([*COMMAND, str(tmp_path / "again"), *arguments], check=True, capture_output=True)
    assert contents(out) == contents(tmp_path / "again")


def test_a_full_disk_is_named_and_nothing_half_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*COMMAND, str(out), "--cases", "1", "--shape", "48", "--spacing", "4"]

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    failed = subprocess.run(arguments, capture_output=True, encoding="utf-8", preexec_fn=small_files_only)
    assert failed.returncode == 1
    assert "phantom-001.nii.gz" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list(out.rglob("*.tmp"))
    assert not list(out.glob("images/*"))
    subprocess.run(arguments, check=True, capture_output=True)
    assert (out / "phantoms.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["out", "--shape", "8,8"], "is not three whole numbers"),
        (["out", "--shape", "8"], "cannot contain a liver"),
        (["out", "--spacing", "0"], "cannot contain a liver"),
        (["out", "--spacing", "nan"], "cannot contain a liver"),
        (["out", "--preset", "tiny"], "choose one of large, mixed, small, multi-organ"),
        (["out", "--layout", "tiny"], "choose one of two-folders, nnunet, msd, lits, kits"),
        (["out", "--layout", "lits", "--preset", "multi-organ"], "supports only the labels"),
        (["file"], "is a file, not an empty folder"),
    ],
)
def test_bad_arguments_are_refused_in_words(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x", encoding="utf-8")
    assert main(["phantom", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not Path("out").exists()


def test_cases_without_room_for_a_lesion_are_named(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    arguments = ["--cases", "4", "--seed", "1", "--preset", "large", "--shape", "48", "--spacing"]
    done = subprocess.run([*COMMAND, str(small), *arguments, "1.9"], check=True, capture_output=True, encoding="utf-8")
    crowded = cases_without_room(small)
    with (small / "true_lesions.csv").open(encoding="utf-8") as file:
        drawn = {row["case_id"] for row in csv.DictReader(file)}
    assert drawn
    assert {f"phantom-00{number}" for number in range(1, 5)} - drawn == set(crowded) != set()
    assert f"note: {len(crowded)} of 4 phantoms have fewer lesions than asked for" in done.stdout
    assert crowded[0] in done.stdout
    done = subprocess.run([*COMMAND, str(large), *arguments, "4.3"], check=True, capture_output=True, encoding="utf-8")
    assert cases_without_room(large) == []
    assert "note" not in done.stdout
    with pytest.raises(DataError, match="no complete phantoms"):
        cases_without_room(tmp_path)
