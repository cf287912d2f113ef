"""What a run has seen: by id, by patient, by the voxels of a scan, and through its ancestors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchcore.errors import DataError, PatchcoreError, SchemaVersionError
from patchcore.runs.seen import (
    Role,
    RunRecord,
    read_record,
    record_of,
    trained_by_ancestors,
    validation_role,
    worst_role,
    write_record,
)
from patchcore.runs.setup import RunSplit, read_setup
from patchcore.study import CaseRecord, FileStamp, Study


def case(case_id: str, patient: str = "", *, scan: str = "", status: str = "accepted") -> CaseRecord:
    stamp = FileStamp(size=1, mtime_ns=1, scan_hash=scan)
    return CaseRecord(
        case_id=case_id, patient=patient or case_id, image="i.nii", label="l.nii", status=status, image_stamp=stamp
    )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study.create(tmp_path / "study", tmp_path)
    study.write_cases([case("a", "p"), case("b", "p"), case("c", scan="h"), case("d"), case("t", status="test")])
    return study


def test_roles_are_derived_from_the_record(study: Study) -> None:
    record = record_of(study, RunSplit(("a", "c"), ("d",)), "")
    roles = {one.case_id: record.role(one, study) for one in study.cases()}
    assert roles == {
        "a": Role.TRAINING,
        "b": Role.PATIENT,
        "c": Role.TRAINING,
        "d": Role.SELECTION,
        "t": Role.HELD_OUT,
    }
    assert record.role(case("e"), study) is Role.NEW


def test_a_scan_is_recognised_in_another_data_set_and_a_number_of_a_patient_is_not(
    study: Study, tmp_path: Path
) -> None:
    other = Study.create(tmp_path / "other", tmp_path)
    record = record_of(study, RunSplit(("a", "c"), ("d",)), "")
    assert record.role(case("liver_7", scan="h"), other) is Role.TRAINING
    for name in ("a", "p"):
        assert record.role(case(name, "p"), other) is Role.EXTERNAL
    # Without a hash, nothing can be recognised; with an empty one, nothing must be.
    assert record.role(case("x", scan=""), other) is Role.EXTERNAL


def test_what_ancestors_have_seen_is_seen(study: Study, tmp_path: Path) -> None:
    oldest, older = tmp_path / "oldest", tmp_path / "older"
    for run, split, source in (
        (oldest, RunSplit(("a",), ("c",)), ""),
        (older, RunSplit(("d",), ("t",)), str(oldest)),
    ):
        run.mkdir()
        write_record(run, record_of(study, split, source))
        assert read_record(run) == record_of(study, split, source)
    young = record_of(study, RunSplit(("d",), ("a", "c", "t")), str(older))
    assert [ancestor.run_id for ancestor in young.ancestors] == ["older", "oldest"]
    roles = {one.case_id: young.role(one, study) for one in study.cases()}
    assert roles["a"] is Role.ANCESTOR_TRAINING
    assert roles["b"] is Role.PATIENT
    # Selecting by a case oneself is worse than an ancestor that did so.
    assert roles["c"] is roles["t"] is Role.SELECTION
    assert trained_by_ancestors(young, study) == ["a"]
    fresh = record_of(study, RunSplit(("d",), ("b",)), str(older))
    assert fresh.role(study.case("t"), study) is Role.ANCESTOR_SELECTION
    assert trained_by_ancestors(fresh, study) == ["b"]


def test_weights_of_unknown_origin_are_named(study: Study, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    assert "w.safetensors" in record_of(study, RunSplit((), ()), str(weights)).unknown[0]
    lost = tmp_path / "lost"
    lost.mkdir()
    assert "lost" in record_of(study, RunSplit((), ()), str(lost)).unknown[0]


def test_a_damaged_record_is_an_error_and_not_an_empty_one(study: Study, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "seen.json").write_text('{"schema_version": 1, "study_id": "s", "trained": [{"no": "case"}]}')
    with pytest.raises(DataError, match="does not list the cases that the run has seen"):
        read_record(run)


def test_the_worst_role_speaks_for_all() -> None:
    assert worst_role([Role.NEW, Role.TRAINING, Role.SELECTION]) == "some used for training"
    assert worst_role([Role.EXTERNAL, Role.EXTERNAL]) == "external"
    seen = RunRecord("s", (), ())
    assert not seen.unknown
    assert [role for role in Role if role.is_seen and not role.is_trained] == [
        Role.SELECTION,
        Role.ANCESTOR_SELECTION,
        Role.SELECTION_PATIENT,
    ]


def test_weights_of_a_run_that_was_deleted_are_named(study: Study, tmp_path: Path) -> None:
    record = record_of(study, RunSplit(("a",), ("d",)), str(tmp_path / "runs" / "gone"))
    assert "which no longer exists" in record.unknown[0]


@pytest.mark.parametrize("config", [None, {"train": {"folds": "many"}}, "text"])
def test_a_run_that_cannot_be_read_has_no_role(tmp_path: Path, config: object) -> None:
    run = tmp_path / "study" / "runs" / "x"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"schema_version": 1, "config": config, "plan": {}}))
    with pytest.raises(PatchcoreError):
        read_setup(run)
    assert validation_role(run) == ""
    (run / "seen.json").write_text(json.dumps({"schema_version": 1, "study_id": "", "trained": ["text"]}))
    with pytest.raises(DataError, match="does not list the cases"):
        read_record(run)
    assert validation_role(run) == ""


def test_the_id_of_an_older_study_stays_when_the_study_is_moved(study: Study, tmp_path: Path) -> None:
    path = study.path / "study.json"
    content = json.loads(path.read_text())
    del content["study_id"]
    path.write_text(json.dumps(content))
    older = Study(study.path)
    older.keep_id()
    moved = study.path.rename(tmp_path / "moved")
    assert Study(moved).study_id == older.study_id


def test_what_is_not_known_of_the_weights_is_written_down(study: Study, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = record_of(study, RunSplit(("a",), ("d",)), str(tmp_path / "runs" / "gone"))
    write_record(run, record)
    assert read_record(run).unknown == record.unknown != ()


def test_a_record_of_a_newer_version_is_refused(study: Study, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_record(run, record_of(study, RunSplit(("a",), ("d",)), ""))
    found = json.loads((run / "seen.json").read_text(encoding="utf-8"))
    (run / "seen.json").chmod(0o644)
    (run / "seen.json").write_text(json.dumps(found | {"schema_version": 99}), encoding="utf-8")
    with pytest.raises(SchemaVersionError, match="99"):
        read_record(run)
