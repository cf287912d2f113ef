"""The study folder: writing, reading, rejected input and locks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from patchcore.errors import LockedError, SchemaVersionError, StudyError
from patchcore.study import CaseRecord, Study
from patchcore.study.cases import FileStamp, canonical_axes


def record(case_id: str, root: Path, **changes: object) -> CaseRecord:
    values: dict[str, object] = {
        "case_id": case_id,
        "patient": case_id,
        "image": root / "image" / f"{case_id}.nii.gz",
        "label": root / "mask" / f"{case_id}.nii.gz",
        "status": "accepted",
        "shape": (40, 30, 10),
        "spacing": (1.0, 2.0, 5.0),
        "affine": ((0, 0, 5, 0), (1, 0, 0, 0), (0, 2, 0, 0), (0, 0, 0, 1)),
        "orientation": "ASR",
        "image_stamp": FileStamp(size=1, mtime_ns=2, sha256="ab"),
    }
    return CaseRecord.model_validate(values | changes)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "study", tmp_path / "data")


def test_cases_are_read_back_as_they_were_written_in_case_order(study: Study) -> None:
    root = study.dataset_root
    written = [record("b", root), record("a", root, status="quarantined", reason="cut", remedy="mend")]
    study.write_cases(written)
    assert study.cases() == [written[1], written[0]]
    assert [case.case_id for case in study.accepted()] == ["b"]
    assert study.case("a").reason == "cut"
    line = json.loads(study.cases_path.read_text(encoding="utf-8").splitlines()[0])
    assert line["image"] == "image/a.nii.gz", "paths inside the data set are stored relative to it"


def test_a_case_outside_the_data_set_keeps_its_path(study: Study, tmp_path: Path) -> None:
    written = record("a", tmp_path / "elsewhere")
    study.write_cases([written])
    assert study.cases() == [written]


def test_stored_geometry_is_permuted_into_canonical_order(tmp_path: Path) -> None:
    case = record("a", tmp_path)
    assert case.canonical_axes == (2, 0, 1)
    assert case.canonical_spacing == (5.0, 1.0, 2.0)
    assert case.canonical_shape == (10, 40, 30)


@pytest.mark.parametrize(
    ("code", "axes"), [("RAS", (0, 1, 2)), ("LPS", (0, 1, 2)), ("SLP", (1, 2, 0)), ("", (0, 1, 2))]
)
def test_canonical_axes(code: str, axes: tuple[int, int, int]) -> None:
    assert canonical_axes(code) == axes


def test_a_study_is_opened_again_for_its_own_data_set_only(study: Study, tmp_path: Path) -> None:
    assert Study.create(study.path, tmp_path / "data").path == study.path
    study.write_cases([])
    with pytest.raises(StudyError, match="made from"):
        Study.create(study.path, tmp_path / "other")


def test_a_study_whose_first_analysis_failed_is_free_for_another_data_set(study: Study, tmp_path: Path) -> None:
    again = Study.create(study.path, tmp_path / "other")
    assert again.dataset_root == (tmp_path / "other").resolve()


def test_what_is_not_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study"):
        Study(tmp_path / "nothing")
    with pytest.raises(StudyError, match=r"no study\.json"):
        Study(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StudyError, match="file"):
        Study.create(tmp_path / "file", tmp_path)
    with pytest.raises(StudyError, match="not empty"):
        Study.create(tmp_path, tmp_path / "data")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file"]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StudyError, match="cannot be written") as caught:
        Study.create(tmp_path / "file" / "study", tmp_path)
    assert caught.value.remedy


def test_a_newer_schema_is_refused(study: Study) -> None:
    path = study.path / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"schema_version": 99}))
    with pytest.raises(SchemaVersionError, match="99"):
        Study(study.path)


def test_a_broken_line_of_cases_is_named(study: Study) -> None:
    study.write_cases([record("a", study.dataset_root)])
    with study.cases_path.open("a") as handle:
        handle.write('{"case_id": "b"}\n')
    with pytest.raises(StudyError, match="line 2"):
        study.cases()


def test_missing_results_name_the_command_that_makes_them(study: Study) -> None:
    with pytest.raises(StudyError, match="patchcore analyze"):
        study.fingerprint()
    with pytest.raises(StudyError, match="patchcore plan"):
        study.plan()


def test_decisions_are_kept(study: Study) -> None:
    assert study.decisions() == {}
    study.write_decisions({"lesion_label": 2, "exclude": ["a"]})
    assert study.decisions() == {"lesion_label": 2, "exclude": ["a"]}


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        ({"connectivity": 8}, "6, 18 or 26"),
        ({"spacing": {"a": [1, 2]}}, "spacing.a"),
        ({"spacing": {"a": [1, 2, -3]}}, "greater than 0"),
        ({"exclude": 5}, "exclude"),
        ({"accept": [{}]}, "accept.0"),
        ({"min_volume_mm3": -1}, "min_volume_mm3"),
        ({"lesion_lable": 2}, "unknown key"),
    ],
)
def test_edited_decisions_are_checked(study: Study, edited: dict[str, Any], words: str) -> None:
    study.write_decisions(edited)
    with pytest.raises(StudyError, match=words):
        study.decisions()


def test_every_division_ever_made_is_kept(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [record(f"case{number:02d}", study.dataset_root) for number in range(9)]
    study.write_cases(cases)
    first, second, third = study.folds(3, seed=1), study.folds(3, seed=2), study.folds(2, seed=1)
    # Folds are kept after a new measurement or plan, although other burdens would give other folds.
    monkeypatch.setattr(Study, "_burdens", lambda self, records: [float(len(records) - i) for i in range(len(records))])
    assert (study.folds(3, seed=1), study.folds(3, seed=2), study.folds(2, seed=1)) == (first, second, third)
    # Schema version 1 of the file contains a single division.
    held = json.loads((study.path / "folds.json").read_text(encoding="utf-8"))["divisions"][0]
    (study.path / "folds.json").write_text(json.dumps({"schema_version": 1, **held}))
    assert study.folds(3, seed=1) == first
    study.folds(4, seed=1)
    assert study.folds(3, seed=1) == first


def test_divisions_made_side_by_side_are_all_kept(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.write_cases([record(f"case{number:02d}", study.dataset_root) for number in range(9)])
    burdens, others = Study._burdens, [2, 4]

    def meanwhile(self: Study, records: Any) -> Any:
        if others:
            Study(study.path).folds(others.pop(), seed=7)
        return burdens(self, records)

    monkeypatch.setattr(Study, "_burdens", meanwhile)
    study.folds(3, seed=1)
    divisions = json.loads((study.path / "folds.json").read_text(encoding="utf-8"))["divisions"]
    assert sorted((one["k"], one["seed"]) for one in divisions) == [(2, 7), (3, 1), (4, 7)]


def test_a_lock_is_waited_for_where_asked(study: Study) -> None:
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with study.lock("folds"):
            taken.set()
            free.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10)
    with pytest.raises(LockedError), study.lock("folds", wait_s=0.05):
        pass
    threading.Timer(0.1, free.set).start()
    with study.lock("folds", wait_s=10):
        assert free.is_set()
    thread.join()


def test_folds_are_kept_until_the_cohort_changes(study: Study) -> None:
    root = study.dataset_root
    cases = [record(f"p{i // 2}_{i}", root, patient=f"p{i // 2}") for i in range(12)]
    study.write_cases(cases)
    folds = study.folds(3, seed=1)
    path = study.path / "folds.json"
    written = path.read_bytes()
    assert study.folds(3, seed=1) == folds
    assert path.read_bytes() == written
    assert sorted(case for fold in folds for case in fold) == [case.case_id for case in cases]
    study.write_cases([*cases[:-1], cases[-1].model_copy(update={"status": "quarantined"})])
    assert cases[-1].case_id not in {case for fold in study.folds(3, seed=1) for case in fold}


def test_a_lock_excludes_threads_and_processes_and_ends_with_the_block(study: Study) -> None:
    code = (
        "import sys; from patchcore.study import Study\n"
        "from patchcore.errors import LockedError\n"
        "try:\n"
        "    with Study(sys.argv[1]).lock('analyze'): print('taken')\n"
        "except LockedError: print('refused')\n"
    )

    def other_process() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, str(study.path)],
            capture_output=True,
            encoding="utf-8",
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        return done.stdout.strip()

    with study.lock("analyze"):
        seen: list[type[BaseException]] = []

        def take() -> None:
            try:
                with study.lock("analyze"):
                    pass
            except LockedError as error:
                seen.append(type(error))

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        assert seen == [LockedError]
        # Closing another descriptor of the file would have released the lock.
        assert other_process() == "refused"
        with study.lock("prepare"):
            pass
    assert other_process() == "taken"
