"""Schema of ``postprocess.json``: what is done to predictions of one checkpoint, chosen on its validation cases."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patchcore.config.explain import explain
from patchcore.errors import DataError, SchemaVersionError
from patchcore.files import read_json
from patchcore.types import PathLike

__all__ = [
    "POSTPROCESS_FILE",
    "POSTPROCESS_SCHEMA",
    "Gain",
    "Objective",
    "Postprocess",
    "parse_postprocess",
    "read_postprocess",
]

POSTPROCESS_SCHEMA = 1
POSTPROCESS_FILE = "postprocess.json"

Objective = Literal["lesion-f1", "dsc"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gain(_Model):
    """The nested estimate: each patient is scored with the choice made on the others."""

    before: float = Field(description="The objective without post-processing.")
    after: float = Field(description="The objective with post-processing, nested by patient.")
    gain: float = Field(description="after − before.")
    low: float = Field(description="Lower end of the 95 % interval of the gain (bootstrap over patients).")
    high: float = Field(description="Upper end of this interval.")
    patients: int = Field(description="Number of patients.")


class Postprocess(_Model):
    """What is done to the predictions of one checkpoint, in this order: threshold; then whole lesions."""

    schema_version: int = POSTPROCESS_SCHEMA
    weights_sha256: str = Field(description="Hash of the weights for which this was chosen.")
    objective: Objective = Field(description="What was maximised.")
    threshold: float | None = Field(
        default=None, gt=0, lt=1, description="A voxel is lesion above this probability; null: if most likely."
    )
    organ_label: int | None = Field(
        default=None, description="Lesions that are not connected with the organ of this label are removed; null: kept."
    )
    min_volume_mm3: float = Field(default=0, ge=0, description="Smaller predicted lesions are removed [mm³].")
    min_peak: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Predicted lesions whose highest probability is lower are removed; null: none.",
    )
    mirror: bool = Field(default=False, description="Whether the tuning averaged over mirrored windows.")
    gain: Gain | None = Field(default=None, description="The nested estimate of the gain.")
    kept: bool = Field(default=True, description="Whether the interval of the gain lies above 0.")
    lost: dict[str, int] = Field(
        default_factory=dict, description="Found lesions of the tuning cases that are lost, per size bin."
    )
    cases: tuple[str, ...] = Field(default=(), description="Case ids of the tuning cases.")

    @property
    def objective_in_words(self) -> str:
        """Name of the objective for messages. For ``dsc``, an evaluation excludes the cases that count as 1 here."""
        if self.objective == "lesion-f1":
            return "lesion F1"
        return "mean DSC of the lesions (a case without lesion and prediction counts as 1)"

    @property
    def acts(self) -> bool:
        """Whether it changes predictions."""
        chosen = (self.threshold, self.organ_label, self.min_peak, self.min_volume_mm3 or None)
        return self.kept and any(one is not None for one in chosen)

    def __str__(self) -> str:
        if not self.acts:
            return "none (no choice was better for certain)"
        parts = [
            "" if self.threshold is None else f"lesion above probability {self.threshold:g}",
            "" if self.organ_label is None else f"lesions only inside label {self.organ_label}",
            "" if self.min_peak is None else f"lesions that reach probability {self.min_peak:g}",
            "" if not self.min_volume_mm3 else f"lesions of at least {self.min_volume_mm3:g} mm³",
        ]
        return ", ".join(filter(None, parts))


def read_postprocess(path: PathLike) -> Postprocess:
    """Read ``postprocess.json``.

    Raises:
        DataError: The file is damaged or not of this kind.
        SchemaVersionError: A newer patchcore wrote it.
        OSError: The file cannot be read.
    """
    path = Path(path)
    return parse_postprocess(read_json(path, schema=POSTPROCESS_SCHEMA), path)


def parse_postprocess(value: object, path: Path) -> Postprocess:
    """Check the content of ``postprocess.json``.

    Raises:
        DataError: It is not of this kind.
        SchemaVersionError: A newer patchcore wrote it.
    """
    try:
        found = Postprocess.model_validate(value)
    except ValidationError as error:
        raise DataError(
            f"is not valid: {explain(error, Postprocess)}", path=path, remedy="run patchcore tune again"
        ) from None
    if found.schema_version > POSTPROCESS_SCHEMA:
        raise SchemaVersionError("was written by a newer patchcore", path=path, remedy="update patchcore")
    return found
