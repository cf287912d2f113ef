"""Test recognising layouts, grouping patients and choosing the lesion label."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchcore.datasets.layouts import find_cases, label_names
from patchcore.datasets.patients import group_patients
from patchcore.errors import DataError, EmptyClassError
from patchcore.study.lesion_label import choose_lesion_label


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("images", "labels"),
    [("image", "mask"), ("images", "labels"), ("imagesTr", "labelsTr"), ("Images", "Masks")],
)
def test_two_folders_are_recognised_by_name(tmp_path: Path, images: str, labels: str) -> None:
    fill(tmp_path, f"{images}/b.nii.gz", f"{labels}/b.nii.gz", f"{images}/a.nii", f"{labels}/a.nii.gz")
    layout = find_cases(tmp_path)
    assert [case.case_id for case in layout.cases] == ["a", "b"]
    assert all(case.problem is None for case in layout.cases)
    assert images in layout.reason
    assert labels in layout.reason


def test_nnunet_image_names_lose_their_channel(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/liver_1_0000.nii.gz", "labelsTr/liver_1.nii.gz", "imagesTs/x_0000.nii.gz")
    layout = find_cases(tmp_path)
    assert layout.name == "nnunet"
    assert [(case.case_id, case.problem) for case in layout.cases] == [("liver_1", None)]


def test_hidden_files_and_other_files_are_ignored(tmp_path: Path) -> None:
    fill(
        tmp_path,
        *(
            "image/a.nii.gz",
            "mask/a.nii.gz",
            "image/._a.nii.gz",
            "mask/.b.nii.gz",
            "mask/Thumbs.db",
            "notes.txt",
        ),
    )
    assert [case.case_id for case in find_cases(tmp_path).cases] == ["a"]


def test_a_pair_of_header_and_data_is_one_volume(tmp_path: Path) -> None:
    fill(tmp_path, "image/a.hdr", "image/a.img", "mask/a.nii")
    (case,) = find_cases(tmp_path).cases
    assert case.problem is None
    assert case.image is not None
    assert case.image.path.name == "a.hdr"


def test_cases_without_a_partner_and_with_two_are_reported(tmp_path: Path) -> None:
    fill(
        tmp_path,
        *("image/only_image.nii.gz", "mask/only_mask.nii.gz"),
        *("image/twice.nii", "image/twice.nii.gz", "mask/twice.nii"),
    )
    problems = {case.case_id: case for case in find_cases(tmp_path).cases}
    assert problems["only_image"].problem == "image without label map"
    assert problems["only_mask"].problem == "label map without image"
    assert "twice.nii, twice.nii.gz" in str(problems["twice"].problem)
    assert all(case.remedy for case in problems.values())


def test_folders_can_be_named_and_label_maps_can_stand_alone(tmp_path: Path) -> None:
    fill(tmp_path, "scans/a.nii.gz", "tumours/a.nii.gz")
    assert [case.problem for case in find_cases(tmp_path, images="scans", labels="tumours").cases] == [None]
    alone = find_cases(tmp_path, labels="tumours")
    assert (alone.name, alone.images, alone.cases[0].image) == ("labels-only", None, None)
    assert alone.cases[0].problem is None


def test_a_folder_for_each_case_is_named_after_it(tmp_path: Path) -> None:
    fill(tmp_path, "case_1/segmentation.nii.gz", "case_2/segmentation.nii.gz")
    assert [case.case_id for case in find_cases(tmp_path, labels=".").cases] == ["case_1", "case_2"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "empty"),
        (("scans/a.nii.gz",), "no layout recognised: 1 volume found, such as scans/a.nii.gz"),
        (("image/readme.txt", "mask/readme.txt"), "no volume found"),
    ],
)
def test_what_holds_no_data_set_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    fill(tmp_path, *names)
    with pytest.raises(DataError, match=message) as caught:
        find_cases(tmp_path)
    assert "--labels" in str(caught.value.remedy)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data set"):
        find_cases(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        find_cases(tmp_path / "file")
    with pytest.raises(DataError, match="--labels"):
        find_cases(tmp_path, labels="nothing")


@pytest.mark.parametrize(
    "declared", [{"background": 0, "liver": 1, "tumour": 2}, {"0": "background", "1": "liver", "2": "tumour"}]
)
def test_label_names_are_read_in_both_forms(tmp_path: Path, declared: dict[str, object]) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": declared | {"whole": [1, 2]}}))
    assert label_names(tmp_path) == {0: "background", 1: "liver", 2: "tumour"}


def test_a_broken_dataset_json_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    assert label_names(tmp_path) == {}
    assert label_names(tmp_path / "nothing") == {}


@pytest.mark.parametrize(
    ("counts", "names", "label"),
    [
        ({255: 8}, {}, 255),
        ({1: 8, 2: 1}, {1: "kidney", 2: "Tumor"}, 2),
        ({1: 8, 3: 8}, {1: "liver", 3: "liver metastases"}, 3),
    ],
)
def test_the_lesion_label_is_reported_from_the_cohort(
    counts: dict[int, int], names: dict[int, str], label: int
) -> None:
    assert choose_lesion_label(counts, names)[0] == label


def test_an_unclear_lesion_label_is_asked_for() -> None:
    with pytest.raises(DataError, match="--lesion-label"):
        choose_lesion_label({1: 3, 2: 3}, {})
    with pytest.raises(DataError, match="--lesion-label"):
        choose_lesion_label({1: 3, 2: 3}, {1: "tumour core", 2: "tumour edge"})
    assert choose_lesion_label({1: 3, 2: 3}, {}, wanted=1)[0] == 1
    with pytest.raises(EmptyClassError, match="label 7"):
        choose_lesion_label({1: 3}, {}, wanted=7)
    with pytest.raises(EmptyClassError, match="no case has"):
        choose_lesion_label({}, {})


def test_patients_by_default_and_by_pattern() -> None:
    ids = ["LIDC-IDRI-0012_R_3", "LIDC-IDRI-0012_R_4", "case_00012", "volume-7"]
    grouping = group_patients(ids)
    assert grouping.patients == ("LIDC-IDRI-0012", "LIDC-IDRI-0012", "case_00012", "volume-7")
    assert "LIDC-IDRI-0012_R_3 → LIDC-IDRI-0012" in grouping.description
    assert group_patients(["a-1-x", "a-2-x"], regex=r"a-(\d)").patients == ("1", "2")
    partly = group_patients(["a-1", "b"], regex=r"a-\d")
    assert partly.patients == ("a-1", "b")
    assert "1 without a match" in partly.description
    with pytest.raises(DataError, match="matches no case"):
        group_patients(ids, regex="zzz")
    with pytest.raises(DataError, match="regular expression"):
        group_patients(ids, regex="(")
