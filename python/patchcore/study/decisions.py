"""The user's decisions from earlier analyses: ``decisions.json``. Users may edit it, so every read validates it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patchcore.config.explain import explain
from patchcore.errors import StudyError

__all__ = ["Decisions", "checked_decisions"]

_Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Decisions(BaseModel):
    """Decisions that apply to all later analyses. None means that nothing was decided.

    Example:
        >>> Decisions(connectivity=18).model_dump(exclude_none=True)
        {'connectivity': 18}
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    images: str | None = Field(default=None, description="folder of the images, inside the data set")
    labels: str | None = Field(default=None, description="folder of the label maps, inside the data set")
    layout: str | None = None
    lesion_label: int | str | None = None
    connectivity: Literal[6, 18, 26] | None = None
    min_volume_mm3: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    patient_regex: str | None = None
    exclude: list[str] | None = Field(default=None, description="excluded cases")
    spacing: dict[str, Annotated[list[_Length], Field(min_length=3, max_length=3)]] | None = Field(
        default=None,
        description="true spacing along each stored axis, mm, by case or pattern; the last given comes last",
    )
    accept: list[str] | None = Field(default=None, description="accepted findings, CASE:CHECK")
    readers: Literal["majority", "union", "each"] | None = Field(
        default=None, description="what counts of a lesion that several readers drew in DICOM"
    )
    fractional_threshold: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="fraction from which voxels of a fractional SEG count"
    )
    interpolate_contours: bool | None = Field(default=None, description="fill slices between drawn ones of an RTSTRUCT")
    ignore_label: int | None = Field(default=None, ge=0, description="label whose voxels count nowhere; 0: none")
    instances: bool | None = Field(default=None, description="each number in a label map is one lesion")


def checked_decisions(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Validate decisions and return them unchanged.

    Raises:
        StudyError: A key is unknown or a value is not valid.
    """
    try:
        Decisions.model_validate(values)
    except ValidationError as error:
        raise StudyError(
            explain(error, Decisions), path=path, remedy="correct the file, or delete it and give the options again"
        ) from None
    return dict(values)
