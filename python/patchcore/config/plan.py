"""The plan: what was decided from a fingerprint. JSON, meant to be edited, validated on every read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from patchcore.config.explain import explain
from patchcore.config.patches import legal_patch_sizes
from patchcore.errors import DataError, PlanError, SchemaVersionError
from patchcore.files import read_json
from patchcore.notebook import HtmlView
from patchcore.types import IntTriple, PathLike, Rule, Triple

__all__ = [
    "PLAN_SCHEMA",
    "CandidatePlan",
    "IdealEdge",
    "JointPlan",
    "JointTarget",
    "LikePlan",
    "Plan",
    "RegionPlan",
    "RuleOutcome",
    "Sensitivity",
    "StorePlan",
    "TargetPlan",
    "Variation",
    "read_plan",
]

PLAN_SCHEMA = 3
_LONGEST_WINDOW = 4096

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IdealEdge(_Model):
    """p*, the edge in voxels of the cube that has the rule's volume, at one spacing."""

    spacing: Triple | None = Field(description="mm per voxel, canonical axes; null: each case's own spacing")
    edge: tuple[float, float, float] = Field(description="ideal edge per axis, voxels; equal but for rule extent")
    interval: tuple[float, float] | None = Field(
        default=None, description="2.5 and 97.5 percentile of the edge, bootstrap over patients"
    )


class RuleOutcome(_Model):
    """What one rule makes of the same lesions."""

    rule: Rule
    volume_mm3: float | None
    edge: tuple[float, float, float]
    patch_size: IntTriple


class CandidatePlan(_Model):
    """One candidate patch size with what it costs."""

    patch_size: IntTriple
    volume_mm3: float = Field(description="volume of one patch at the training spacing")
    tokens: int = Field(description="patches in one window")
    attention_gflop: float = Field(description="self-attention of one forward pass, all layers, 1e9 FLOP")
    attention_share: float = Field(description="share of self-attention in the network's FLOP")
    smaller_lesions_share: float = Field(description="share of lesions smaller than one patch")
    chosen: bool

    @model_validator(mode="before")
    @classmethod
    def _without_windows(cls, data: Any) -> Any:
        """Read plans of before, which had an empty list of windows per candidate."""
        return {k: v for k, v in data.items() if k != "windows"} if isinstance(data, dict) else data


class Variation(_Model):
    """What one changed condition makes of the same data."""

    kind: Literal["spacing", "connectivity", "min-volume", "case", "patient"]
    value: str = Field(description="the condition: mm, connectivity, mm³, or what was left out")
    lesion_count: int
    edge: float = Field(description="p*, voxels (geometric mean over the axes)")
    patch_size: IntTriple


class Sensitivity(_Model):
    """How p* and the choice move when what was taken for granted changes."""

    variations: tuple[Variation, ...]
    conclusion: str


class StorePlan(_Model):
    """How scans are brought to the training grid."""

    kernel: Literal["cubic", "linear"] = Field(default="cubic", description="of the image; B-spline or straight lines")
    antialias: bool = Field(default=True, description="blur an axis that becomes coarser before it is sampled")
    crop_to: int | None = Field(default=None, ge=1, description="keep only what surrounds this label; null: all")
    crop_margin_mm: float = Field(default=20.0, ge=0, le=1000, description="how far around it")


class RegionPlan(_Model):
    """Labels that count as one thing, as liver does with the tumours in it."""

    name: str = Field(min_length=1)
    labels: tuple[int, ...] = Field(min_length=1, description="labels that belong to it, of the classes")


class TargetPlan(_Model):
    """The plan for one lesion label. All axes are closest-canonical (RAS+)."""

    lesion_label: int
    label_name: str
    classes: tuple[int, ...] = Field(min_length=1, description="labels the network learns, in channel order from 1")
    regions: tuple[RegionPlan, ...] = Field(
        default=(), description="what is judged instead of single classes, whole things first: liver, then tumour in it"
    )
    rule: Rule
    patch_size: IntTriple
    spacing: Triple = Field(description="training spacing, mm per voxel")
    window_size: IntTriple
    hu_range: tuple[float, float]
    connectivity: Literal[6, 18, 26]
    min_volume_mm3: float = Field(ge=0)
    lesion_count: int = Field(ge=0)
    patient_count: int = Field(ge=0)
    mean_volume_mm3: float
    median_volume_mm3: float
    ideal_edges: tuple[IdealEdge, ...] = Field(description="at the training spacing, at 1 mm, at each case's own")
    candidates: tuple[CandidatePlan, ...]
    rules: tuple[RuleOutcome, ...]
    padding_share: float = Field(ge=0, le=1, description="share of an average window that is padding")
    reason: str
    warnings: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = Field(default=None, description="with --sensitivity")
    store: StorePlan = Field(default=StorePlan(), description="how scans are brought to the training grid")

    @field_validator("patch_size")
    @classmethod
    def _patch_is_legal(cls, value: IntTriple) -> IntTriple:
        legal = legal_patch_sizes()
        for edge in value:
            if edge >= 1 and edge not in legal:
                below, above = [p for p in legal if p < edge][-1:], [p for p in legal if p > edge][:1]
                near = " and ".join(map(str, below + above))
                raise ValueError(f"{value}: no network has a patch edge of {edge}; the nearest legal: {near}")
        return value

    @field_validator("patch_size", "window_size", mode="before")
    @classmethod
    def _sizes_are_numbers(cls, value: Any) -> Any:
        # true would count as 1.
        if isinstance(value, list | tuple) and any(isinstance(edge, bool) for edge in value):
            raise ValueError(f"{value} holds no three whole numbers")
        return value

    @field_validator("patch_size", "window_size")
    @classmethod
    def _sizes_are_positive(cls, value: IntTriple) -> IntTriple:
        if min(value) < 1 or max(value) > _LONGEST_WINDOW:
            raise ValueError(f"{value} has an axis below 1 or above {_LONGEST_WINDOW}")
        return value

    @field_validator("spacing")
    @classmethod
    def _spacing_is_positive(cls, value: Triple) -> Triple:
        if not all(0 < s < 1000 for s in value):
            raise ValueError(f"{value} is no spacing: each axis must lie between 0 and 1000 mm")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> TargetPlan:
        for axis, (window, patch) in enumerate(zip(self.window_size, self.patch_size, strict=True)):
            if window % patch:
                legal = [p for p in range(2, min(window, 64) + 1) if window % p == 0]
                raise ValueError(
                    f"patch_size {patch} does not divide window_size {window} along axis {axis}; "
                    f"legal there: {', '.join(map(str, legal))}"
                )
        low, high = self.hu_range
        if not low < high:
            raise ValueError(f"hu_range {self.hu_range} must rise")
        if self.lesion_label not in self.classes:
            raise ValueError(f"classes {self.classes} must contain the lesion label {self.lesion_label}")
        if 0 in self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes {self.classes} must be distinct and non-zero")
        self._check_regions()
        return self

    def _check_regions(self) -> None:
        if not self.regions:
            return
        names = [region.name for region in self.regions]
        if len(set(names)) < len(names):
            raise ValueError(f"regions {names} have a name twice")
        for number, region in enumerate(self.regions):
            if len(set(region.labels)) < len(region.labels):
                raise ValueError(f"region {region.name} holds a label twice: {region.labels}")
            for later in self.regions[number + 1 :]:
                common = set(region.labels) & set(later.labels)
                if common == set(region.labels):
                    raise ValueError(f"region {later.name} holds all of {region.name}: whole things come first")
                if common and common != set(later.labels):
                    raise ValueError(
                        f"region {later.name} lies partly in {region.name}: it must lie wholly within, or outside of it"
                    )
            strange = [label for label in region.labels if label not in self.classes]
            if strange:
                raise ValueError(f"region {region.name} holds {strange}, which classes {self.classes} do not")
        own = [self._own_labels(number) for number in range(len(self.regions))]
        for region, labels in zip(self.regions, own, strict=True):
            if len(labels) != 1:
                raise ValueError(
                    f"region {region.name} must hold one label that no later region does, not {sorted(labels)}: "
                    "whole things come first, and each adds one label to those within it"
                )
        if {label for labels in own for label in labels} != set(self.classes):
            raise ValueError(f"every one of the classes {self.classes} must lie in a region")
        # Lesions are measured, found and counted by their own label: DSC beside them must be of the same thing.
        lesions = self.judged.get(self.lesion_label, ())
        if len(lesions) > 1:
            raise ValueError(
                f"the lesion label {self.lesion_label} is judged with {sorted(set(lesions) - {self.lesion_label})} as "
                "one region, but lesions are measured by their own label: plan with --lesion-label for an innermost "
                "region"
            )

    def _own_labels(self, number: int) -> set[int]:
        later = {label for region in self.regions[number + 1 :] for label in region.labels}
        return set(self.regions[number].labels) - later

    @property
    def judged(self) -> dict[int, tuple[int, ...]]:
        """What Dice and DSC are of: for each class the labels that count with it, in the order they are painted.

        Without regions each label stands for itself. A region goes by the label that it holds and no later one does.
        """
        if not self.regions:
            return {label: (label,) for label in self.classes}
        return {self._own_labels(number).pop(): region.labels for number, region in enumerate(self.regions)}

    @property
    def judged_indices(self) -> dict[int, tuple[int, ...]]:
        """The same by class index, 1 for the first of the classes."""
        index = {label: number for number, label in enumerate(self.classes, 1)}
        return {index[own]: tuple(index[label] for label in labels) for own, labels in self.judged.items()}

    @property
    def region_indices(self) -> dict[int, tuple[int, ...]] | None:
        """The same where there are regions; None where each class is chosen by itself."""
        return self.judged_indices if self.regions else None

    @property
    def ideal_edge(self) -> float:
        """p* at the training spacing, in voxels (geometric mean over the axes)."""
        a, b, c = self.ideal_edges[0].edge
        return float((a * b * c) ** (1 / 3))


class JointTarget(_Model):
    """How one label fares with the patch size that serves all."""

    lesion_label: int
    label_name: str
    ideal_edge: float = Field(description="its own p*, voxels")
    own_patch_size: IntTriple
    ratio: float = Field(description="joint patch edge over its own p*")


class JointPlan(_Model):
    """One patch size for several labels: the candidate whose worst distance from any p*, in log scale, is least."""

    patch_size: IntTriple
    spacing: Triple
    window_size: IntTriple
    hu_range: tuple[float, float]
    classes: tuple[int, ...]
    targets: tuple[JointTarget, ...]
    reason: str


class LikePlan(_Model):
    """The study whose patch size, spacing, window and HU range were taken over."""

    study: str = Field(description="name of its folder")
    fingerprint_hash: str = Field(description="of what it was planned from")
    lesion_label: int
    own_patch_size: IntTriple = Field(description="what this study's own lesions would have had")


class Plan(_Model, HtmlView):
    """``plan.json``: one target for each lesion label. The first target's fields are offered directly."""

    schema_version: Literal[1, 2, 3] = 3
    fingerprint_hash: str
    targets: tuple[TargetPlan, ...] = Field(min_length=1)
    joint: JointPlan | None = Field(default=None, description="with several labels: one patch size for all")
    like: LikePlan | None = Field(default=None, description="with --like: where the protocol comes from")

    @property
    def target(self) -> TargetPlan:
        """The first target."""
        return self.targets[0]

    @property
    def patch_size(self) -> IntTriple:
        """Patch edge per canonical axis, voxels."""
        return self.target.patch_size

    @property
    def window_size(self) -> IntTriple:
        """Window edge per canonical axis, voxels."""
        return self.target.window_size

    @property
    def spacing(self) -> Triple:
        """Training spacing per canonical axis, mm."""
        return self.target.spacing

    @property
    def hu_range(self) -> tuple[float, float]:
        """Intensity clip, HU."""
        return self.target.hu_range

    @property
    def reason(self) -> str:
        """Why this patch size, in plain language."""
        return self.target.reason


def read_plan(path: PathLike) -> Plan:
    """Read and validate a ``plan.json``.

    Args:
        path: The file.

    Returns:
        The validated plan.

    Raises:
        PlanError: An unknown key, an impossible value, or no JSON at all.
        SchemaVersionError: The file is from a newer patchcore.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    try:
        data: Any = read_json(path)
    except DataError as error:
        raise PlanError(error.message, path=path, remedy="write it anew with patchcore plan") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > PLAN_SCHEMA:
        raise SchemaVersionError(
            f"plan has schema version {version}, this patchcore reads up to {PLAN_SCHEMA}",
            path=path,
            remedy="update patchcore",
        )
    try:
        return Plan.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise PlanError(
            explain(error, Plan), path=path, remedy="correct the file, or write it anew with patchcore plan"
        ) from None
