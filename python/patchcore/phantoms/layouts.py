"""Layouts of phantom data sets: the paths of the files, and the file that describes the data set."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patchcore.errors import DataError
from patchcore.phantoms.spec import PhantomSpec

__all__ = ["PHANTOM_LAYOUTS", "PhantomLayout", "choose_layout", "patient_of", "split_of"]

_Document = Callable[[PhantomSpec, Sequence[str]], str | Mapping[str, Any]]


@dataclass(frozen=True)
class PhantomLayout:
    """Paths of the files of a data set, relative to its folder.

    Attributes:
        name: Name of the layout, as in :data:`PHANTOM_LAYOUTS`.
        case_id: Pattern of the case id; ``{0}`` is the index from 0, ``{1}`` the index from 1.
        image: Pattern of the image path; ``{}`` is the case id. None: no images.
        label: Pattern of the label map path; ``{}`` is the case id.
        document: Name of the file that describes the data set, or None.
        describe: Function that returns the contents of this file from the spec and the case ids.
        dicom: Whether each case is a folder of DICOM files, named by the case id.
        fixed_labels: Label names that the layout defines; empty if a file in the data set names the labels.
    """

    name: str
    case_id: str = "phantom-{1:03d}"
    image: str | None = None
    label: str = ""
    document: str | None = None
    describe: _Document | None = None
    dicom: bool = False
    fixed_labels: tuple[str, ...] = ()

    def id_of(self, index: int) -> str:
        """Return the id of the case with this index."""
        return self.case_id.format(index, index + 1)


def patient_of(index: int) -> str:
    """Return the patient of a case, for layouts with patients. Of every three cases, the first two share a patient."""
    return f"P{2 * (index // 3) + (index % 3 == 2) + 1:03d}"


def split_of(index: int, cases: int) -> str:
    """Return ``test`` for the last fifth of the cases, else ``train``. A patient is never in both splits.

    Example:
        >>> [split_of(i, 6) for i in range(6)]
        ['train', 'train', 'train', 'train', 'train', 'test']
    """
    first = cases - cases // 5
    while 0 < first < cases and patient_of(first - 1) == patient_of(first):
        first += 1
    return "test" if index >= first else "train"


def _about(spec: PhantomSpec) -> str:
    parts = [f"{group.organ}: {group.describe()}" for group in spec.groups]
    return "Phantom CTs; " + (parts[0].partition(": ")[2] if len(parts) == 1 else "; ".join(parts))


def _labels_by_name(spec: PhantomSpec) -> dict[str, int]:
    return {"background": 0, **{name: number for number, name in spec.label_names.items()}}


def _plain(spec: PhantomSpec, ids: Sequence[str]) -> Mapping[str, Any]:
    return {
        "name": "phantoms",
        "description": _about(spec),
        "labels": _labels_by_name(spec),
        "channel_names": {"0": "CT"},
        "file_ending": ".nii.gz",
        "numTraining": len(ids),
    }


def _names(spec: PhantomSpec, ids: Sequence[str]) -> Mapping[str, Any]:
    return {"name": "phantoms", "description": _about(spec), "labels": _labels_by_name(spec)}


def _msd(spec: PhantomSpec, ids: Sequence[str]) -> Mapping[str, Any]:
    names = {"background": 0, **_labels_by_name(spec)}
    return {
        "name": "phantoms",
        "description": _about(spec),
        "reference": "patchcore phantom",
        "licence": "none: made up",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(number): name for name, number in names.items()},
        "numTraining": len(ids),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"} for i in ids],
        "test": [],
    }


def _manifest(spec: PhantomSpec, ids: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["case_id", "image", "label", "patient", "split", "scanner"])
    for i, case_id in enumerate(ids):
        folder = f"volumes/{case_id}"
        files = f"{folder}/ct.nii.gz", f"{folder}/lesions.nii.gz"
        writer.writerow([case_id, *files, patient_of(i), split_of(i, len(ids)), "AB"[i % 2]])
    return out.getvalue()


_ALL = (
    PhantomLayout(
        "two-folders", image="images/{}.nii.gz", label="labels/{}.nii.gz", document="dataset.json", describe=_plain
    ),
    PhantomLayout(
        "nnunet",
        case_id="phantom_{1:03d}",
        image="imagesTr/{}_0000.nii.gz",
        label="labelsTr/{}.nii.gz",
        document="dataset.json",
        describe=_plain,
    ),
    PhantomLayout(
        "msd",
        case_id="phantom_{1:03d}",
        image="imagesTr/{}.nii.gz",
        label="labelsTr/{}.nii.gz",
        document="dataset.json",
        describe=_msd,
    ),
    PhantomLayout(
        "lits", case_id="{0}", image="volume-{}.nii", label="segmentation-{}.nii", fixed_labels=("liver", "tumour")
    ),
    PhantomLayout(
        "kits",
        case_id="case_{0:05d}",
        image="{}/imaging.nii.gz",
        label="{}/segmentation.nii.gz",
        fixed_labels=("kidney", "tumour"),
    ),
    PhantomLayout("labels-only", label="labels/{}.nii.gz", document="dataset.json", describe=_names),
    PhantomLayout(
        "manifest",
        image="volumes/{}/ct.nii.gz",
        label="volumes/{}/lesions.nii.gz",
        document="manifest.csv",
        describe=_manifest,
    ),
    PhantomLayout("dicom", case_id="PHANTOM-{1:04d}", dicom=True),
)

PHANTOM_LAYOUTS: tuple[str, ...] = tuple(layout.name for layout in _ALL)
"""Names of the layouts for phantom data sets."""


def choose_layout(name: str, spec: PhantomSpec) -> PhantomLayout:
    """Return the layout with this name.

    Raises:
        DataError: There is no such layout, or it does not support the labels of the spec.
    """
    layout = next((each for each in _ALL if each.name == name), None)
    if layout is None:
        raise DataError(
            f"{name!r} is not a phantom layout", found=name, remedy=f"choose one of {', '.join(PHANTOM_LAYOUTS)}"
        )
    if layout.fixed_labels and len(spec.label_names) > len(layout.fixed_labels):
        raise DataError(
            f"layout {name} supports only the labels {' and '.join(layout.fixed_labels)}, but this preset has "
            f"{', '.join(spec.label_names.values())}",
            found=name,
            remedy="choose nnunet, msd, two-folders, labels-only, manifest or dicom",
        )
    return layout
