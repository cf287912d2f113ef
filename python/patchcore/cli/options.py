"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from patchcore.volumes.dicom.options import SegmentOptions

__all__ = [
    "Accept",
    "CheckpointName",
    "Device",
    "Exclude",
    "FractionalThreshold",
    "Images",
    "InterpolateContours",
    "Labels",
    "LayoutName",
    "LesionLabel",
    "Mirror",
    "PatchSizes",
    "PatientRegex",
    "ReaderChoice",
    "Spacing",
    "SpacingFile",
    "Threads",
    "UsePostprocess",
    "segment_options",
]

Images: TypeAlias = Annotated[Path | None, typer.Option(help="Folder of the images, inside the data set.")]
Labels: TypeAlias = Annotated[Path | None, typer.Option(help="Folder of the label maps, inside the data set.")]
LayoutName: TypeAlias = Annotated[
    str | None, typer.Option("--layout", help="Layout of the data set; needed only if it is recognised wrongly.")
]
PatientRegex: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Regular expression that finds the patient in a case id: its first group, or the whole match."),
]
Exclude: TypeAlias = Annotated[list[str] | None, typer.Option(help="Case to exclude; may be repeated.")]
Spacing: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="CASE=A,B,C: true spacing of a case along each stored axis [mm]; may be repeated."),
]
Accept: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="CASE:CHECK or all:CHECK: accept geometry that this check complains about; may be repeated."),
]
SpacingFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="CSV with columns case_id, x, y, z: true spacing of each case along its stored axes [mm]."),
]
ReaderChoice: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--readers",
        help="What counts of a lesion that several readers drew in DICOM: majority, union or each [default: majority].",
    ),
]
FractionalThreshold: TypeAlias = Annotated[
    float | None, typer.Option(help="Voxels of a fractional DICOM SEG count from this fraction on [default: 0.5].")
]
InterpolateContours: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--interpolate-contours/--no-interpolate-contours",
        help="Fill the slices between drawn ones of an RTSTRUCT, if one or a regular number is missing.",
    ),
]
LesionLabel: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Label of the lesions, by number or name; needed only if it is not clear. Several, as in 2,3,4, are "
        "one lesion class."
    ),
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(help="Number of cases processed in parallel [default: all cores].")
]

CheckpointName: TypeAlias = Annotated[
    str | None, typer.Option("--checkpoint", help="Checkpoint to use: best or last [default: best].")
]
Device: TypeAlias = Annotated[str | None, typer.Option(help="Device: auto, cpu or cuda [default: device of the run].")]
Mirror: TypeAlias = Annotated[
    bool | None,
    typer.Option("--mirror/--no-mirror", help="Average predictions over mirrored windows [default: as in the run]."),
]
PatchSizes: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--patch-size",
        help="Of a flexible network: patch size to predict at, as 8 or 8x8x4; several that are averaged, as 8,12; one "
        "per label, as 1:16,2:8; plan: each label at the size that the plan chose for it [default: the plan's first].",
    ),
]
UsePostprocess: TypeAlias = Annotated[
    bool, typer.Option("--postprocess/--no-postprocess", help="Use what patchcore tune chose for the model.")
]


def segment_options(readers: str | None, threshold: float | None, interpolate: bool | None) -> SegmentOptions:
    """Return how DICOM segments are read; options that were not given have their defaults.

    Raises:
        DataError: An option has a value that does not exist.
    """
    from patchcore.volumes.dicom.options import SegmentOptions

    given = {"readers": readers, "fractional_threshold": threshold, "interpolate_contours": interpolate}
    return SegmentOptions.from_json(given)
