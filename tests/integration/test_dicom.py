"""Real DICOM, if available: equal to the NRRD, to highdicom's result, and to the published NIfTI."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest

from patchcore.datasets.dicom.find import find_dicom
from patchcore.datasets.dicom.measure import measure_segments
from patchcore.datasets.layouts import CaseFiles
from patchcore.datasets.layouts.indices import with_indices
from patchcore.volumes.dicom.volumes import read_labelled
from patchcore.volumes.volume import read_image, read_label
from real_data import DATA, needs_data

pytestmark = needs_data


def case_of(tmp_path: Path, *sources: Path) -> CaseFiles:
    (tmp_path / "in").mkdir()
    for source in sources:
        shutil.copy(source, tmp_path / "in")
    (case,) = with_indices(find_dicom(tmp_path / "in"), tmp_path / "x").cases
    assert case.problem is None
    return case


@pytest.mark.parametrize("with_ct", [True, False])
def test_liver_equals_its_nrrd(tmp_path: Path, with_ct: bool) -> None:
    import SimpleITK

    folder = DATA / "dcmqi_ct_seg"
    slices = [folder / f"0{n}.dcm" for n in (1, 2, 3)] if with_ct else []
    label = read_label(case_of(tmp_path, folder / "liver.dcm", *slices).label)
    nrrd = SimpleITK.ReadImage(str(folder / "liver_seg.nrrd"))
    np.testing.assert_array_equal(label.array, SimpleITK.GetArrayFromImage(nrrd).transpose(2, 1, 0))
    np.testing.assert_allclose(label.spacing, nrrd.GetSpacing(), atol=1e-6)
    corner = np.diag([-1, -1, 1, 1]) @ label.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(corner[:3], nrrd.GetOrigin(), atol=1e-5)


@pytest.mark.parametrize("with_ct", [True, False])
def test_overlapping_segments_equal_highdicom(tmp_path: Path, with_ct: bool) -> None:
    import highdicom

    folder = DATA / "dcmqi_ct_seg"
    slices = [folder / f"0{n}.dcm" for n in (1, 2, 3)] if with_ct else []
    case = case_of(tmp_path, folder / "partial_overlaps.dcm", *slices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg = highdicom.seg.segread(folder / "partial_overlaps.dcm")
        volume = seg.get_volume(combine_segments=False)
    # highdicom's slices may have the opposite order: map the volume onto our grid with its own affine.
    labelled = read_labelled(case.label)
    to_ours = labelled.grid.from_lps @ volume.affine
    measured = {row["segment"]: row for row in measure_segments(case.label).segments}
    assert len(labelled.segments) == seg.number_of_segments == 5
    overlap = np.zeros(labelled.grid.shape, np.uint8)
    for segment in labelled.segments:
        painted = np.zeros(labelled.grid.shape, np.uint8)
        segment.paint(painted, 1)
        overlap += painted
        theirs = np.argwhere(volume.array[..., segment.number - 1])
        voxels = np.rint(theirs @ to_ours[:3, :3].T + to_ours[:3, 3]).astype(int)
        assert {tuple(v) for v in voxels.tolist()} == {tuple(v) for v in np.argwhere(painted).tolist()}
        assert measured[segment.number]["voxel_count"] == len(theirs)
        assert segment.name == seg.get_segment_description(segment.number).segment_label
    assert overlap.max() > 1


def test_sarcoma_equals_the_published_volumes(tmp_path: Path) -> None:
    (case,) = with_indices(find_dicom(DATA / "sts_019_dicom"), tmp_path).cases
    assert case.case_id == case.patient == "STS_019"
    assert case.image is not None
    image, label = read_image(case.image), read_label(case.label)
    for ours, kind in ((image, "image"), (label, "mask")):
        theirs = nibabel.load(DATA / "sts" / kind / "STS_019.nii.gz")
        np.testing.assert_array_equal(ours.array, np.asarray(theirs.dataobj))
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)
