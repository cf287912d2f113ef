"""Test the lists of dataset.json: every entry is a case, a case with a problem, or listed as ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from patchcore.datasets.layouts import find_cases
from patchcore.study.layout import Layout


def listed(root: Path, description: dict[str, Any], *files: str) -> Layout:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return find_cases(root)


def entry(name: str, folder: str = "Tr", **more: Any) -> dict[str, Any]:
    return {"image": f"./images{folder}/{name}.nii.gz", "label": f"labels{folder}/{name}.nii.gz", **more}


def files(*names: str, folder: str = "Tr") -> list[str]:
    return [f"{kind}{folder}/{name}.nii.gz" for name in names for kind in ("images", "labels")]


def test_validation_and_labelled_test_cases_are_cases(tmp_path: Path) -> None:
    layout = listed(
        tmp_path,
        {
            "training": [entry("a")],
            "validation": [entry("b")],
            "test": [entry("c"), "./imagesTs/d.nii.gz", {"image": "imagesTs/e.nii.gz"}],
        },
        *files("a", "b", "c"),
        "imagesTs/d.nii.gz",
    )
    assert [(case.case_id, case.split, case.problem) for case in layout.cases] == [
        ("a", "train", None),
        ("b", "validation", None),
        ("c", "test", None),
    ]
    ignored = {item.path.name: item.reason for item in layout.ignored}
    reason = "listed for testing, without a label map"
    assert ignored == {"d.nii.gz": reason, "e.nii.gz": f"{reason}; the file does not exist"}


@pytest.mark.parametrize(
    "description",
    [
        {"fold_0": [entry("a")], "fold_1": [entry("b")]},
        {"training": {"fold0": [entry("a")], "fold1": [entry("b")]}},
        {"training": [entry("a", fold=0), entry("b", fold=1)]},
        {
            "0": {"training": [entry("a")], "validation": [entry("b")]},
            "1": {"training": [entry("b")], "validation": [entry("a")]},
        },
        {
            "dataset": {
                "a": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"},
                "b": {"images": ["imagesTr/b.nii.gz"], "label": "labelsTr/b.nii.gz"},
            }
        },
    ],
)
def test_folds_are_keys_or_entries(tmp_path: Path, description: dict[str, Any]) -> None:
    layout = listed(tmp_path, description, *files("a", "b"))
    assert [(case.case_id, case.split, case.problem) for case in layout.cases] == [
        ("a", "train", None),
        ("b", "train", None),
    ]
    if "fold" in json.dumps(
        description.get("training", [])[:1] if isinstance(description.get("training"), list) else []
    ):
        assert [case.columns["fold"] for case in layout.cases] == ["0", "1"]


def test_of_several_images_the_ct_is_read_and_the_others_are_ignored(tmp_path: Path) -> None:
    pair = {"image": ["imagesTr/a_pet.nii.gz", "imagesTr/a_ct.nii.gz"], "label": "labelsTr/a.nii.gz"}
    layout = listed(tmp_path, {"modality": {"0": "PET", "1": "CT"}, "training": [pair]}, *pair["image"], pair["label"])
    (case,) = layout.cases
    assert case.image is not None
    assert case.image.path.name == "a_ct.nii.gz"
    assert "channel 1 (CT)" in layout.reason
    assert [(item.path.name, item.reason) for item in layout.ignored] == [("a_pet.nii.gz", "channel 0 of its case")]


def test_label_maps_of_one_name_take_the_name_of_their_folder(tmp_path: Path) -> None:
    pairs = [
        {"image": f"data/{name}/imaging.nii.gz", "label": f"data/{name}/segmentation.nii.gz"}
        for name in ("case_00000", "case_00001")
    ]
    layout = listed(tmp_path, {"training": pairs}, *(name for pair in pairs for name in pair.values()))
    assert [(case.case_id, case.problem) for case in layout.cases] == [("case_00000", None), ("case_00001", None)]


def test_label_maps_of_one_name_in_folders_of_one_name_take_both(tmp_path: Path) -> None:
    pairs = [
        {"image": f"{site}/p1/ct.nii.gz", "label": f"{site}/p1/seg.nii.gz", "fold": 0} for site in ("berlin", "paris")
    ]
    layout = listed(
        tmp_path, {"training": pairs}, *(f"{s}/p1/{n}.nii.gz" for s in ("berlin", "paris") for n in ("ct", "seg"))
    )
    assert [case.case_id for case in layout.cases] == ["berlin_p1", "paris_p1"]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"image": "imagesTr/b.nii.gz"}, "training 2 of dataset.json has no label map"),
        ({"image": "imagesTr/b.nii.gz", "label": 3}, "training 2 of dataset.json lacks a label"),
        ({"label": "labelsTr/b.nii.gz"}, "training 2 of dataset.json lacks an image"),
        ({"image": [], "label": "labelsTr/b.nii.gz"}, "training 2 of dataset.json lacks an image"),
        (17, "training 2 of dataset.json is not an object with an image and a label"),
        (entry("gone"), "labelsTr/gone.nii.gz is listed in dataset.json but does not exist"),
        (
            {"image": "imagesTr/b.mha", "label": "labelsTr/b.nii.gz"},
            "imagesTr/b.mha: files ending in .mha are not read",
        ),
        (
            {"image": "../x.nii.gz", "label": "../y.nii.gz"},
            "training 2 of dataset.json lies outside the data set: y.nii.gz",
        ),
        (entry("a"), "dataset.json lists the case 2 times"),
    ],
)
def test_an_entry_that_cannot_be_used_is_a_case_with_a_problem(tmp_path: Path, bad: Any, problem: str) -> None:
    layout = listed(tmp_path, {"training": [entry("a"), bad]}, *files("a", "b"))
    assert [case.problem for case in layout.cases if case.problem] == [problem]
    assert all(case.remedy for case in layout.cases if case.problem)


def test_a_case_in_a_training_and_a_test_list_is_refused(tmp_path: Path) -> None:
    layout = listed(tmp_path, {"training": [entry("a"), entry("b")], "test": [entry("a")]}, *files("a", "b"))
    assert [case.problem for case in layout.cases] == ["dataset.json lists the case for testing and for train", None]


def test_the_number_of_cases_is_compared_with_the_declared_number(tmp_path: Path) -> None:
    layout = listed(tmp_path, {"numTraining": 131, "training": [entry("a")]}, *files("a"))
    assert [item.message for item in layout.findings] == [
        "dataset.json declares 131 training cases (numTraining), but 1 is there"
    ]
    assert not listed(tmp_path, {"numTraining": 1, "training": [entry("a")]}).findings


def test_names_made_for_nnunet_lack_the_channel(tmp_path: Path) -> None:
    layout = listed(tmp_path, {"training": [entry("a")]}, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert [case.problem for case in layout.cases] == [None]


def test_nnunet_test_images_and_other_channels_are_ignored_with_their_reason(tmp_path: Path) -> None:
    names = ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    tests = ("imagesTs/t_0000.nii.gz", "imagesTs/u_0000.nii.gz", "labelsTs/u.nii.gz", "labelsTs/w.nii.gz")
    layout = listed(tmp_path, {"channel_names": {"0": "CT", "1": "PET"}, "numTraining": 1}, *names, *tests)
    assert [(case.case_id, case.split, case.problem) for case in layout.cases] == [
        ("a", "train", None),
        ("u", "test", None),
        ("w", "test", "label map without image"),
    ]
    assert {item.path.name: item.reason for item in layout.ignored} == {
        "a_0001.nii.gz": "channel 1; channel 0 is used",
        "t_0000.nii.gz": "a test image without label map",
    }
    assert not layout.findings


@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        ({"training": [{"img": "imagesTr/a.nii.gz", "seg": "labelsTr/a.nii.gz"}], "test": [entry("b")]}, "train test"),
        ({"training": [["imagesTr/a.nii.gz", "labelsTr/a.nii.gz"]], "validation": [entry("b")]}, "train validation"),
        ({"training": [entry("a")], "external_test": [entry("b")]}, "train test"),
        ({"training": [entry("a")], "holdout": [entry("b")]}, "train test"),
        ({"training": entry("a"), "validation": entry("b")}, "train validation"),
        ({"splits": {"x": {"y": {"training": [entry("a")], "test": [entry("b")]}}}}, "train test"),
        (
            {"training": [{"image": "imagesTr/a.nii.gz", "mask": "labelsTr/a.nii.gz"}], "testing": [entry("b")]},
            "train test",
        ),
    ],
)
def test_lists_of_other_forms_are_read(tmp_path: Path, lists: dict[str, Any], splits: str) -> None:
    layout = listed(tmp_path, lists, *files("a", "b"))
    assert layout.name == "msd"
    assert [(case.case_id, case.problem) for case in layout.cases] == [("a", None), ("b", None)]
    assert " ".join(case.split for case in layout.cases) == splits


def test_entries_that_cannot_be_understood_are_cases_with_a_problem(tmp_path: Path) -> None:
    odd = {"training": [entry("a")], "validation": [{"label": "labelsTr/b.nii.gz"}, 17], "fold_2": [None]}
    layout = listed(tmp_path, odd, *files("a", "b"))
    problems = [case.problem for case in layout.cases if case.problem]
    assert len(problems) == 3
    assert "validation 1 of dataset.json lacks an image" in problems
    assert layout.used_count == 3
    assert not listed(tmp_path, {"numTraining": 1, "training": [entry("a")], "validation": [entry("b")]}).findings
    assert not listed(tmp_path, {"numTraining": 2, "training": [entry("a")], "validation": [entry("b")]}).findings
