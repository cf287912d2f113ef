"""The rows of an interrupted evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patchcore.datasets.row_log import RowLog
from patchcore.evaluation.rows import CaseRow, row_of_json, row_to_json
from patchcore.metrics import LesionMatch, ScoreSettings, VoxelCounts, score_case
from patchcore.metrics.froc import Candidates
from patchcore.study import CaseRecord


def _case(folder: Path, case_id: str) -> tuple[CaseRecord, CaseRow]:
    label = folder / f"{case_id}.nii"
    label.write_bytes(b"label map")
    record = CaseRecord(case_id=case_id, patient=case_id, image=None, label=str(label), status="accepted")  # type: ignore[arg-type]
    match = LesionMatch(true_mm3=(8.0,), covered_share=(0.5,), predicted_mm3=(), overlap_share=())
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[1:3, 1:3, 1:3] = 1
    candidates = Candidates(2, (0.9, 0.3, 0.2), ((0,), (), None))
    settings = ScoreSettings({"1": (1,)}, "1", conventions=("mesh", "voxel"))
    # With a distance that is infinite: c is not predicted at all.
    prediction = np.roll(truth, 1, axis=0) if case_id != "c" else np.zeros_like(truth)
    score = score_case(case_id, truth, prediction, np.eye(4), settings)
    return record, CaseRow(case_id, {1: VoxelCounts(4, 0, 4)}, match, 8, 4, 1.0, 0.25, score, candidates)


def row_log(path: Path, key: dict[str, str]) -> RowLog[CaseRow]:
    return RowLog(path, key, write=row_to_json, read=row_of_json)


def test_rows_around_a_line_that_a_kill_cut_are_kept(tmp_path: Path) -> None:
    cases = [_case(tmp_path, name) for name in "abc"]
    path = tmp_path / "unfinished.jsonl"
    log = row_log(path, {"checkpoint": "x"})
    for record, row in cases[:2]:
        log.add(record, row)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # killed while it wrote b

    row_log(path, {"checkpoint": "x"}).add(*cases[2])

    found = row_log(path, {"checkpoint": "x"})
    # Compared as text: a NaN does not equal itself.
    assert [repr(found.find(record)) for record, _ in cases] == [repr(row) for row in (cases[0][1], None, cases[2][1])]


def test_rows_of_another_checkpoint_and_of_a_changed_file_are_discarded(tmp_path: Path) -> None:
    (a, row_a), (b, row_b) = (_case(tmp_path, name) for name in "ab")
    path = tmp_path / "unfinished.jsonl"
    log = row_log(path, {"checkpoint": "x"})
    log.add(a, row_a)
    log.add(b, row_b)
    a.label.path.write_bytes(b"another label map")

    assert row_log(path, {"checkpoint": "x"}).find(a) is None
    assert row_log(path, {"checkpoint": "x"}).find(b) == row_b
    assert row_log(path, {"checkpoint": "y"}).find(b) is None
