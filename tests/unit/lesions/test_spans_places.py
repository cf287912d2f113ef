"""Where the spans of lesions are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from patchcore.lesions.measure import lesion_spans
from patchcore.lesions.spans import lesion_at, span_places


def three_lesions() -> npt.NDArray[np.bool_]:
    """Lesions of 1, 2 and 1 voxels along the first axis."""
    mask = np.zeros((9, 3, 3), bool)
    mask[1, 1, 1] = mask[4:6, 1, 1] = mask[8, 1, 1] = True
    return mask


def test_places_follow_the_fastest_axis() -> None:
    mask = np.zeros((4, 5, 6), bool)
    mask[1:3, 2, 3] = mask[2, 2, 4] = True
    for array in (mask, np.asfortranarray(mask)):
        found = np.zeros_like(mask)
        for lesion, place in span_places(lesion_spans(array)):
            assert lesion == 0
            found[place] = True
        assert np.array_equal(found, mask)


def test_places_of_one_lesion() -> None:
    mask = three_lesions()
    spans = lesion_spans(mask)
    for lesion, voxels in enumerate((1, 2, 1)):
        places = list(span_places(spans, lesion))
        assert {number for number, _ in places} == {lesion}
        assert sum(int(mask[place].sum()) for _, place in places) == voxels


def test_lesions_at_voxels() -> None:
    mask = three_lesions()
    voxels = np.array([[5, 1, 1], [1, 1, 1], [8, 1, 1]])
    for array in (mask, np.asfortranarray(mask)):
        found = lesion_at(lesion_spans(array), voxels, array.shape)
        assert found.dtype == np.int64
        assert found.tolist() == [1, 0, 2]
