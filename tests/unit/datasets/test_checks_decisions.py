"""Test decisions about findings, invalid decisions, and the checks that need labels or a cohort."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore.datasets.checks import (
    CHECKS,
    COHORT,
    check_decisions,
    cohort_findings,
    commands,
    decide,
    finding,
    label_findings,
    parse_accept,
    parse_spacing,
    read_spacing_file,
)
from patchcore.datasets.patients import group_patients, separating_pattern
from patchcore.errors import DataError
from patchcore.study.cases import CaseRecord, FileStamp
from patchcore.study.folds import make_folds


def record(case_id: str = "volume-28", *checks: str, **fields: Any) -> CaseRecord:
    values: dict[str, Any] = {
        "patient": case_id,
        "image": Path("i.nii"),
        "label": Path("l.nii"),
        "status": "accepted",
        "shape": (512, 512, 75),
        "spacing": (1.0, 1.0, 1.0),
        "affine": tuple(map(tuple, np.diag([-1.0, -1.0, 1.0, 1.0]).tolist())),
        "orientation": "LPS",
        "labels": (1,),
        "findings": tuple(finding(check, f"{check} found") for check in checks),
    }
    return CaseRecord(case_id=case_id, **(values | fields))


def stamp(content: str) -> FileStamp:
    return FileStamp(size=1, mtime_ns=1, content_hash=content)


def test_a_spacing_is_read_by_case_and_pattern() -> None:
    given = parse_spacing(["a=b=0.7,0.8,5", "volume-2*=1", "volume-2*=2"])
    assert given == {"a=b": (0.7, 0.8, 5.0), "volume-2*": (2.0, 2.0, 2.0)}


@pytest.mark.parametrize(
    "text", ["case_1", "=1,1,1", "c=1,2", "c=x", "c=0,1,1", "c=-1,1,1", "c=nan", "c=700", "all=1", "*=1"]
)
def test_what_is_not_a_spacing_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="--spacing"):
        parse_spacing([text])


@pytest.mark.parametrize("text", ["unit-spacing", ":unit-spacing", "c:", "c:no-such-check", "c:pair-shape"])
def test_what_cannot_be_accepted_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="--accept"):
        parse_accept([text])


def test_errors_cannot_be_accepted_by_going_round_the_parser() -> None:
    assert decide(record("a", "pair-shape"), spacing={}, accept={"all:pair-shape"}).status == "quarantined"


def test_decisions_have_to_name_a_case() -> None:
    cases = ["volume-28", "volume-29"]
    check_decisions(cases, spacing={"volume-2*": (1, 1, 1)}, accept={"all:unit-spacing", "volume-29:unit-spacing"})
    with pytest.raises(DataError, match="volume-30"):
        check_decisions(cases, spacing={"volume-30": (1, 1, 1)}, accept=())
    with pytest.raises(DataError, match="volume-3"):
        check_decisions(cases, spacing={}, accept={"volume-3*:unit-spacing"})


def test_a_given_spacing_scales_the_affine_and_settles_findings_about_spacing() -> None:
    held = decide(record("volume-28", "identity-affine"), spacing={}, accept=())
    assert held.status == "held"
    assert held.remedy is not None
    assert "--spacing volume-28=A,B,C" in held.remedy
    assert "--accept volume-28:identity-affine" in held.remedy

    cured = decide(held, spacing={"volume-2*": (9.0, 9.0, 9.0), "volume-28": (0.7, 0.8, 5.0)}, accept=())
    assert (cured.status, cured.reason, cured.remedy) == ("accepted", None, None)
    assert cured.spacing == cured.given_spacing == (0.7, 0.8, 5.0)
    np.testing.assert_allclose(cured.affine_array, np.diag([-0.7, -0.8, 5.0, 1.0]))
    assert cured.findings[0].decided
    again = decide(cured, spacing={"volume-28": (0.7, 0.8, 5.0)}, accept=())
    np.testing.assert_allclose(again.affine_array, cured.affine_array)


def test_a_given_spacing_that_is_implausible_itself_is_found_again() -> None:
    result = decide(record("a", "identity-affine"), spacing={"a": (50.0, 50.0, 50.0)}, accept=())
    assert result.status == "held"
    assert [item.check for item in result.findings if not item.decided] == ["spacing", "extent"]


def test_a_tilt_is_not_settled_by_a_spacing() -> None:
    tilted = record("a", "sheared-affine", "spacing")
    assert decide(tilted, spacing={"a": (0.7, 0.7, 5.0)}, accept=()).status == "held"
    both = decide(tilted, spacing={"a": (0.7, 0.7, 5.0)}, accept={"all:sheared-affine"})
    assert both.status == "accepted"


def test_what_is_accepted_is_used_and_taken_back_is_held_again() -> None:
    test_case = record("a", "unit-spacing", split="test")
    accepted = decide(test_case, spacing={}, accept={"a:unit-spacing"})
    assert accepted.status == "test"
    assert decide(accepted, spacing={}, accept=()).status == "held"
    assert decide(accepted, spacing={}, accept={"b:unit-spacing", "a:spacing"}).status == "held"


def test_an_error_wins_and_the_excluded_stay_out() -> None:
    result = decide(record("a", "label-empty", "unit-spacing", "pair-shape"), spacing={}, accept=())
    assert (result.status, result.reason) == ("quarantined", "pair-shape found")
    assert [item.level for item in result.findings] == ["error", "geometry", "warning"]
    assert result.remedy is not None
    assert "--exclude a" in result.remedy
    assert decide(record("a", "pair-shape", status="excluded"), spacing={}, accept=()).status == "excluded"


def test_commands_to_type_are_few() -> None:
    cases = [decide(record(name, "identity-affine"), spacing={}, accept=()) for name in ("a b", "c")]
    assert commands(cases, command="patchcore analyze D S") == [
        "patchcore analyze D S --spacing 'a b'=A,B,C --spacing c=A,B,C",
        "patchcore analyze D S --accept all:identity-affine",
    ]


def test_for_many_cases_one_file_and_one_accept_are_proposed() -> None:
    cases = [decide(record(f"volume-{n}", "identity-affine"), spacing={}, accept=()) for n in range(119)]
    assert commands(cases, command="patchcore analyze D S") == [
        "patchcore analyze D S --spacing-file CSV (columns case_id, x, y, z; 119 cases)",
        "patchcore analyze D S --accept all:identity-affine",
    ]


def test_labels_are_declared_where_any_are() -> None:
    declared = {0: "background", 1: "liver", 2: "tumour"}
    assert label_findings([1, 2], declared) == []
    assert label_findings([255], {}) == []
    (item,) = label_findings([1, 3, 7], declared)
    assert item.check == "label-undeclared"
    assert item.message == "labels 3, 7 are not declared; the data set declares 1 (liver), 2 (tumour)"
    assert "declare" in item.remedy
    assert [item.check for item in label_findings([], declared)] == ["label-empty"]


def test_the_same_label_map_twice_is_an_error_only_without_images() -> None:
    label_only = [record(name, image=None, label_stamp=stamp("x")) for name in ("a", "b")]
    assert [item.check for item in cohort_findings(label_only)["b"]] == ["duplicate-label"]
    empty = [record(name, image=None, label_stamp=stamp("x"), labels=()) for name in ("a", "b")]
    assert "b" not in cohort_findings(empty)
    paired = [record(name, image_stamp=stamp(name), label_stamp=stamp("x")) for name in ("a", "b")]
    assert [item.check for item in cohort_findings(paired)["b"]] == ["same-label"]


def test_a_faulty_case_is_not_a_original_but_a_duplicate_stays_one() -> None:
    first = record("a", "pair-shape", image_stamp=stamp("x"))
    assert "b" not in cohort_findings([first, record("b", image_stamp=stamp("x"))])
    second = record("b", "duplicate-image", image_stamp=stamp("x"), status="quarantined")
    assert "b" in cohort_findings([record("a", image_stamp=stamp("x")), second])


def test_an_identity_affine_like_no_other_case_is_held_and_one_among_its_like_is_not() -> None:
    def placed(name: str, *spacing: float, **fields: Any) -> CaseRecord:
        matrix = np.diag([*spacing, 1.0])
        rows = tuple(tuple(row) for row in matrix.tolist())
        return record(name, spacing=spacing, affine=rows, orientation="RAS", shape=(96, 96, 96), **fields)

    others = [placed("a", 2, 2, 2.5), placed("b", 2, 2, 2.5), placed("c", 1.9, 2, 2.5)]
    lost = placed("d", 1, 1, 1)
    [found] = cohort_findings([*others, lost])["d"]
    assert (found.check, found.level) == ("identity-affine", "geometry")
    assert "2 × 2 × 2.5 mm" in found.message
    # Not doubted: 1 mm voxels are usual here, the user gave the spacing, or there are too few other cases.
    for cases in (
        [placed("a", 1, 1, 1), placed("b", 1, 1, 1), others[0], lost],
        [*others, placed("d", 1, 1, 1, given_spacing=(1.0, 1.0, 1.0))],
        [others[0], lost],
        [placed("a", 1.1, 1, 1), placed("b", 1.1, 1, 1), placed("c", 1.1, 1, 1), lost],
    ):
        assert "d" not in cohort_findings(cases)


@pytest.mark.parametrize(
    ("patients", "check"),
    [
        (["p", "p", "q"], None),
        (["p", "q", "r"], "patients-unknown"),
        (["p", "p", "p"], "one-patient"),
        (["p", "p", "p", "q"], "one-patient"),
        (["p", "p", "q", "q"], None),
        (["p"], None),
    ],
)
def test_patients_are_reported_apart(patients: list[str], check: str | None) -> None:
    cases = [record(f"c{n}", patient=patient) for n, patient in enumerate(patients)]
    assert [item.check for item in cohort_findings(cases).get(COHORT, [])] == ([check] if check else [])
    known = [item.check for item in cohort_findings(cases, patients_known=True).get(COHORT, [])]
    assert known == (["one-patient"] if check == "one-patient" else [])


def test_a_grouping_into_one_patient_is_questioned_with_a_pattern_that_separates() -> None:
    names = [f"kidney21_case_{n:05d}_lesion_{k:02d}" for n in range(5) for k in range(2)]
    grouping = group_patients(names)
    assert set(grouping.patients) == {"kidney21"}
    cases = [record(name, patient=patient) for name, patient in zip(names, grouping.patients, strict=True)]
    (about,) = cohort_findings(cases)[COHORT]
    assert about.message == "all 10 cases count as scans of one patient (kidney21)"
    pattern = shlex.split(about.remedy)[2].rstrip(",")
    assert len(set(group_patients(names, regex=pattern).patients)) == 5
    with pytest.raises(DataError, match="1 patient"):
        make_folds(list(grouping.patients), 5, 0)
    assert separating_pattern(["a", "b", "c"]) is None


def test_spacings_of_many_cases_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "spacing.csv"
    path.write_text("case_id;x;y;z\na b;0,7;0,7;5\nvolume-2*;1;1;2.5\n", encoding="utf-8")
    assert parse_spacing(read_spacing_file(path)) == {"a b": (0.7, 0.7, 5.0), "volume-2*": (1.0, 1.0, 2.5)}
    assert read_spacing_file(None) == []
    for text, message in (
        ("case_id,x,y\na,1,1\n", "line 2 has no z"),
        ("case_id,x,y,z\n", "lists no case"),
        ("case_id,x,y,z\na,1,1,-2\n", "line 2: .* is not a valid spacing"),
        ("case_id,x,y,z\n*,1,1,2\n", "line 2: .* every case the same spacing"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_spacing_file(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_spacing_file(tmp_path / "nothing.csv")


def test_every_check_says_what_it_looks_for_and_what_to_do() -> None:
    for name, info in CHECKS.items():
        assert name == name.lower().replace(" ", "-")
        assert info.looks_for
        assert info.remedy
        assert not info.cured_by_spacing or info.level == "geometry"
