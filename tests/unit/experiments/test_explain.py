"""The part of a report about the best patch size of each lesion."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from results_made import lesion, point, result

from patchcore.experiments.explain import _TEXTURE, explanation
from patchcore.experiments.scores import Scores, gather, settings_of_points
from patchcore.lesions.texture import texture_features
from patchcore.views.document import Bullets, Paragraph, Table


def made(tmp_path: Path, *, texture: bool, count: int = 40) -> tuple[Scores, list[object]]:
    """Return scores in which large lesions are better at patch 8, and a study with their measures."""
    generator = np.random.default_rng(0)
    diameters = generator.uniform(5, 19, count)
    with (tmp_path / "lesions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "patient", "label", "lesion", "volume_mm3", *(f"extent_{a}_mm" for a in "ijk")])
        for number, diameter in enumerate(diameters):
            # Another label and another numbering than in the evaluation: found by their volumes.
            writer.writerow([f"p{number:02}", f"p{number:02}", 1, 1, diameter**3, 1, 1, 1])
            writer.writerow([f"p{number:02}", f"p{number:02}", 2, 7, diameter**3, diameter, 5, 4])
    if texture:
        with (tmp_path / "texture.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case_id", "label", "lesion", "contrast_hu", "stat_var", *_TEXTURE])
            for number in range(count):
                writer.writerow(
                    [f"p{number:02}", 2, 7, -40, "" if number == 0 else 25, *generator.normal(size=len(_TEXTURE))]
                )
    results = []
    for patch, sign in ((4, -1), (8, 1)):
        scores = {f"p{n:02}": 0.6 + sign * 0.02 * (d - 12) for n, d in enumerate(diameters)}
        lesions = [lesion(case, 1, d, scores[case]) for case, d in zip(scores, diameters, strict=True)]
        results.append(result(point(patch), scores, lesions=lesions))
    found = gather(settings_of_points(results))
    assert found is not None
    return found, results


def test_volume_explains_what_volume_decides(tmp_path: Path) -> None:
    scores, results = made(tmp_path, texture=True)
    blocks = explanation(tmp_path, scores, results, 2)  # type: ignore[arg-type]
    table, models = (block for block in blocks if isinstance(block, Table))
    rows = {row["feature"]: row for row in table.rows}
    assert rows["volume"]["rho"] > 0.8
    assert rows["volume"]["n"] == 40
    assert rows["volume"]["rho_low"] > 0.7
    assert np.isnan(rows["spread of log volume in the patient"]["rho"])  # one lesion each
    assert rows["contrast / spread of HU"]["n"] == 39
    assert set(_TEXTURE.values()) <= set(rows)
    by = {row["chosen_by"]: row for row in models.rows}
    assert by["one size for all"]["gain_high"] < 0
    assert by["volume"]["dsc"] > 0.65
    assert {"volume, extent", "volume, texture", "volume, contrast", "all of them"} <= set(by)
    words = next(block.text for block in blocks if isinstance(block, Paragraph))
    assert words.startswith("Choosing by volume is better than one size for all")
    assert "nothing that was tried adds to volume beyond noise" in words
    assert "The strongest correlation with the best size has: volume" in words or "longest edge" in words


def test_lesions_of_equal_volume_are_told_by_their_place_and_all_lesions_of_a_patient_count(tmp_path: Path) -> None:
    names = [f"{kind}_{axis}_mm" for kind in ("extent", "centroid") for axis in ("ijk" if kind == "extent" else "xyz")]
    results = []
    with (tmp_path / "lesions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "patient", "label", "lesion", "volume_mm3", *names])
        for number in range(12):
            for place in (2, 1):  # in another order than in the evaluation
                writer.writerow([f"p{number:02}", f"p{number:02}", 2, 3 - place, 1000, 10, 10 * place, 10, 0, 0, place])
            for other in range(number % 3):  # no network has found these
                writer.writerow([f"p{number:02}", f"p{number:02}", 2, 3 + other, 8 + other, 1, 1, 1, 0, 0, 9])
    for patch, better in ((4, 1), (8, 2)):
        scores = {f"p{number:02}": 0.6 for number in range(12)}
        lesions = [lesion(case, place, 10.0, 0.8 if place == better else 0.4) for case in scores for place in (1, 2)]
        results.append(result(point(patch), scores, lesions=lesions))
    found = gather(settings_of_points(results))
    assert found is not None
    table = next(block for block in explanation(tmp_path, found, results, 2) if isinstance(block, Table))
    rows = {row["feature"]: row for row in table.rows}
    assert rows["longest edge"]["n"] == 24
    assert rows["longest edge"]["rho"] == 1.0  # the long ones are better at patch 8
    assert rows["number of lesions of the patient"]["n"] == 24
    assert not np.isnan(rows["number of lesions of the patient"]["rho"])  # 2, 3 or 4 of them


def test_without_textures_the_report_says_how_to_get_them(tmp_path: Path) -> None:
    scores, results = made(tmp_path, texture=False)
    blocks = explanation(tmp_path, scores, results, 2)  # type: ignore[arg-type]
    [notes] = [block for block in blocks if isinstance(block, Bullets)]
    assert "patchcore texture" in notes.items[0]
    assert explanation(tmp_path, scores, results, 3) == []  # type: ignore[arg-type]


def test_few_lesions_explain_nothing(tmp_path: Path) -> None:
    scores, results = made(tmp_path, texture=False, count=19)
    assert explanation(tmp_path, scores, results, 2) == []  # type: ignore[arg-type]


def test_the_columns_exist() -> None:
    cube = np.arange(1, 28, dtype=np.float64).reshape(3, 3, 3)
    assert {*_TEXTURE, "stat_var"} <= set(texture_features(cube, cube > 0))
