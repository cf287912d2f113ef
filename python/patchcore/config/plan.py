"""Schema of ``plan.json``: the decisions based on a fingerprint. Users may edit it; every read validates it.

The module is long because each field of the file is described here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from patchcore.config.explain import explain
from patchcore.config.patches import SHORT_AXIS, fitting_edge, legal_patch_sizes
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
    """p* at one spacing: the edge, in voxels, of the cube with the volume that the rule computes."""

    spacing: Triple | None = Field(
        description="Spacing [mm per voxel], canonical axes; null: the spacing of each case."
    )
    edge: tuple[float, float, float] = Field(
        description="Ideal edge per axis [voxels]; the axes differ only for rule extent."
    )
    interval: tuple[float, float] | None = Field(
        default=None, description="2.5 and 97.5 percentile of the edge, from a bootstrap over patients."
    )


class RuleOutcome(_Model):
    """Result of one rule on the same lesions."""

    rule: Rule
    volume_mm3: float | None
    edge: tuple[float, float, float]
    patch_size: IntTriple


class CandidatePlan(_Model):
    """One candidate patch size and its cost."""

    patch_size: IntTriple
    volume_mm3: float = Field(description="Volume of one patch at the training spacing [mm³].")
    tokens: int = Field(description="Number of patches in one window.")
    attention_gflop: float = Field(description="Self-attention in one forward pass, all layers [1e9 FLOP].")
    attention_share: float = Field(description="Share of self-attention in the network's FLOP.")
    smaller_lesions_share: float = Field(description="Share of lesions smaller than one patch.")
    chosen: bool

    @model_validator(mode="before")
    @classmethod
    def _without_windows(cls, data: Any) -> Any:
        """Drop the empty list of windows that older plans have for each candidate."""
        return {k: v for k, v in data.items() if k != "windows"} if isinstance(data, dict) else data


class Variation(_Model):
    """Result on the same data when one condition is changed."""

    kind: Literal["spacing", "connectivity", "min-volume", "case", "patient"]
    value: str = Field(
        description="The changed condition: spacing, connectivity, minimum volume, or the excluded case or patient."
    )
    lesion_count: int
    edge: float = Field(description="p* [voxels], geometric mean over the axes.")
    patch_size: IntTriple


class Sensitivity(_Model):
    """How p* and the chosen patch size change when an assumption changes."""

    variations: tuple[Variation, ...]
    conclusion: str


class StorePlan(_Model):
    """How scans are resampled to the training grid."""

    kernel: Literal["cubic", "linear"] = Field(
        default="cubic", description="Interpolation of the image: cubic (B-spline) or linear."
    )
    antialias: bool = Field(default=True, description="Blur an axis before it is resampled to a coarser spacing.")
    crop_to: int | None = Field(
        default=None, ge=1, description="Label to crop to: only its surroundings are kept; null: no crop."
    )
    crop_margin_mm: float = Field(default=20.0, ge=0, le=1000, description="Margin around that label [mm].")


class RegionPlan(_Model):
    """Labels that are evaluated as one region, e.g. the liver together with its tumours."""

    name: str = Field(min_length=1)
    labels: tuple[int, ...] = Field(min_length=1, description="Labels of the region; each is one of the classes.")


class TargetPlan(_Model):
    """The plan for one lesion label. All axes are closest-canonical (RAS+)."""

    lesion_label: int
    label_name: str
    classes: tuple[int, ...] = Field(
        min_length=1, description="Labels that the network learns, in channel order from 1."
    )
    class_names: dict[int, str] = Field(default={}, description="Names of the classes, as far as they are known.")
    lesion_labels: tuple[int, ...] = Field(
        default=(), description="Labels with lesions that windows are drawn for in turn; empty: only lesion_label."
    )
    regions: tuple[RegionPlan, ...] = Field(
        default=(),
        description="Regions to evaluate instead of single classes; enclosing regions first: liver, then tumour.",
    )
    ignore_label: int | None = Field(
        default=None, gt=0, description="Label whose voxels count in no loss and no metric; null: none."
    )
    label_rule: str = Field(
        default="", description="How labels were read: merged labels, instances, ignored; empty: as stored."
    )
    rule: Rule
    patch_size: IntTriple
    spacing: Triple = Field(description="Training spacing [mm per voxel].")
    window_size: IntTriple
    median_extent: IntTriple | None = Field(
        default=None,
        description="Median extent of the cases at the training spacing [voxels], rounded up; null: the window was "
        "fixed by the user, so that short axes are not fitted to a patch size.",
    )
    hu_range: tuple[float, float]
    connectivity: Literal[6, 18, 26]
    min_volume_mm3: float = Field(ge=0)
    lesion_count: int = Field(ge=0)
    patient_count: int = Field(ge=0)
    mean_volume_mm3: float
    median_volume_mm3: float
    ideal_edges: tuple[IdealEdge, ...] = Field(
        description="p* at the training spacing, at 1 mm, and at the spacing of each case."
    )
    candidates: tuple[CandidatePlan, ...]
    rules: tuple[RuleOutcome, ...]
    padding_share: float = Field(ge=0, le=1, description="Share of an average window that is padding.")
    reason: str
    warnings: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = Field(default=None, description="Result of --sensitivity.")
    store: StorePlan = Field(default=StorePlan(), description="How scans are resampled to the training grid.")

    def fitting(self, patch_sizes: Sequence[IntTriple]) -> TargetPlan:
        """Return the target with a window for these patch sizes: short axes get the smallest edge that all divide.

        An axis is short if the median case has fewer than :data:`patchcore.config.patches.SHORT_AXIS` voxels there. Its
        edge is the smallest common multiple that covers the median case: less would cut it, more would be padding. An
        edge that all sizes divide already stays as it is, so that a sweep over divisors of it keeps the plan's window.
        An axis that would need more than 96 voxels stays as it is, too: the check of the window then refuses the sizes.
        """
        if self.median_extent is None:
            return self
        window = tuple(
            old
            if extent >= SHORT_AXIS
            or all(old % edge == 0 for edge in edges)
            or fitting_edge(extent, edges) > 2 * SHORT_AXIS
            else fitting_edge(extent, edges)
            for old, extent, *edges in zip(self.window_size, self.median_extent, *patch_sizes, strict=True)
        )
        if window == self.window_size:
            return self
        filled = [min(extent, edge) / edge for extent, edge in zip(self.median_extent, window, strict=True)]
        return self.model_copy(update={"window_size": window, "padding_share": 1 - math.prod(filled)})

    @field_validator("patch_size")
    @classmethod
    def _patch_is_legal(cls, value: IntTriple) -> IntTriple:
        legal = legal_patch_sizes()
        for edge in value:
            if edge >= 1 and edge not in legal:
                below, above = [p for p in legal if p < edge][-1:], [p for p in legal if p > edge][:1]
                near = " and ".join(map(str, below + above))
                raise ValueError(f"{value}: a patch edge of {edge} is not legal; the nearest legal edges: {near}")
        return value

    @field_validator("patch_size", "window_size", mode="before")
    @classmethod
    def _sizes_are_numbers(cls, value: Any) -> Any:
        # JSON true would count as 1.
        if isinstance(value, list | tuple) and any(isinstance(edge, bool) for edge in value):
            raise ValueError(f"{value} is not three whole numbers")
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
            raise ValueError(f"{value} is not a valid spacing: each axis must lie between 0 and 1000 mm")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> TargetPlan:
        for axis, (window, patch) in enumerate(zip(self.window_size, self.patch_size, strict=True)):
            if window % patch:
                legal = [p for p in range(2, min(window, 64) + 1) if window % p == 0]
                raise ValueError(
                    f"patch_size {patch} does not divide window_size {window} along axis {axis}; "
                    f"legal for this window: {', '.join(map(str, legal))}"
                )
        low, high = self.hu_range
        if not low < high:
            raise ValueError(f"hu_range {self.hu_range}: the first value must be lower than the second")
        if self.lesion_label not in self.classes:
            raise ValueError(f"classes {self.classes} must contain the lesion label {self.lesion_label}")
        if 0 in self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes {self.classes} must be distinct and non-zero")
        if self.ignore_label in self.classes:
            raise ValueError(f"ignore_label {self.ignore_label} must not be one of the classes {self.classes}")
        self._check_regions()
        return self

    def _check_regions(self) -> None:
        if not self.regions:
            return
        names = [region.name for region in self.regions]
        if len(set(names)) < len(names):
            raise ValueError(f"regions {names}: two regions have the same name")
        for number, region in enumerate(self.regions):
            if len(set(region.labels)) < len(region.labels):
                raise ValueError(f"region {region.name} contains a label twice: {region.labels}")
            for later in self.regions[number + 1 :]:
                common = set(region.labels) & set(later.labels)
                if common == set(region.labels):
                    raise ValueError(
                        f"region {later.name} contains all of {region.name}: the enclosing region must come first"
                    )
                if common and common != set(later.labels):
                    raise ValueError(
                        f"region {later.name} overlaps {region.name} partly: it must lie completely inside or outside"
                    )
            strange = [label for label in region.labels if label not in self.classes]
            if strange:
                raise ValueError(f"region {region.name} contains {strange}, which are not in classes {self.classes}")
        own = [self._own_labels(number) for number in range(len(self.regions))]
        for region, labels in zip(self.regions, own, strict=True):
            if len(labels) != 1:
                raise ValueError(
                    f"region {region.name} must contain exactly one label that no later region contains, "
                    f"found {sorted(labels)}: enclosing regions come first, and each adds one label to the regions "
                    "inside it"
                )
        if {label for labels in own for label in labels} != set(self.classes):
            raise ValueError(f"each of the classes {self.classes} must belong to a region")
        # Lesions are measured, detected and counted by their own label, so DSC must be computed on the same label.
        lesions = self.evaluated.get(self.lesion_label, ())
        if len(lesions) > 1:
            raise ValueError(
                f"the lesion label {self.lesion_label} is evaluated together with "
                f"{sorted(set(lesions) - {self.lesion_label})} as one region, but lesions are measured by their own "
                "label alone: choose the label of an innermost region with --lesion-label"
            )

    def _own_labels(self, number: int) -> set[int]:
        later = {label for region in self.regions[number + 1 :] for label in region.labels}
        return set(self.regions[number].labels) - later

    @property
    def other_lesion_classes(self) -> tuple[int, ...]:
        """Class indices of the other labels with lesions that windows are drawn for."""
        others = [label for label in self.lesion_labels if label != self.lesion_label]
        return tuple(self.classes.index(label) + 1 for label in others)

    @property
    def stored_classes(self) -> tuple[int, ...]:
        """Labels that the store tells apart: the classes, then the label that is ignored."""
        return self.classes if self.ignore_label is None else (*self.classes, self.ignore_label)

    @property
    def ignored_index(self) -> int | None:
        """Class index of the voxels that are ignored: one above the classes; None if no label is ignored."""
        return None if self.ignore_label is None else len(self.classes) + 1

    @property
    def evaluated(self) -> dict[int, tuple[int, ...]]:
        """For each class, the labels that Dice and DSC count as that class, in the order in which they are painted.

        Without regions, each label counts alone. A region is named by its one label that no later region contains.
        """
        if not self.regions:
            return {label: (label,) for label in self.classes}
        return {self._own_labels(number).pop(): region.labels for number, region in enumerate(self.regions)}

    @property
    def evaluated_indices(self) -> dict[int, tuple[int, ...]]:
        """The same as `evaluated` with class indices; index 1 is the first of the classes."""
        index = {label: number for number, label in enumerate(self.classes, 1)}
        return {index[own]: tuple(index[label] for label in labels) for own, labels in self.evaluated.items()}

    @property
    def region_indices(self) -> dict[int, tuple[int, ...]] | None:
        """The same as `evaluated_indices` if the target has regions; None without regions."""
        return self.evaluated_indices if self.regions else None

    @property
    def ideal_edge(self) -> float:
        """p* at the training spacing, in voxels (geometric mean over the axes)."""
        a, b, c = self.ideal_edges[0].edge
        return float((a * b * c) ** (1 / 3))


class JointTarget(_Model):
    """How well the joint patch size fits one label."""

    lesion_label: int
    label_name: str
    ideal_edge: float = Field(description="p* of this label [voxels].")
    own_patch_size: IntTriple
    ratio: float = Field(description="Joint patch edge divided by p* of this label.")


class JointPlan(_Model):
    """One patch size for several labels: the candidate with the smallest worst distance to any p* on a log scale."""

    patch_size: IntTriple
    spacing: Triple
    window_size: IntTriple
    hu_range: tuple[float, float]
    classes: tuple[int, ...]
    targets: tuple[JointTarget, ...]
    reason: str


class LikePlan(_Model):
    """The study that patch size, spacing, window and HU range were taken from."""

    study: str = Field(description="Name of the study folder.")
    fingerprint_hash: str = Field(description="Hash of the fingerprint of that study's plan.")
    lesion_label: int
    own_patch_size: IntTriple = Field(description="Patch size that the lesions of this study would give.")


class Plan(_Model, HtmlView):
    """``plan.json``: one target per lesion label. Fields of the first target are also properties of the plan."""

    schema_version: Literal[1, 2, 3] = 3
    fingerprint_hash: str
    targets: tuple[TargetPlan, ...] = Field(min_length=1)
    joint: JointPlan | None = Field(default=None, description="One patch size for all labels, if there are several.")
    like: LikePlan | None = Field(default=None, description="With --like: the study that the protocol comes from.")

    @property
    def target(self) -> TargetPlan:
        """The first target."""
        return self.targets[0]

    def fitting(self, patch_sizes: Sequence[IntTriple]) -> Plan:
        """Return the plan with a window for several patch sizes: see :meth:`TargetPlan.fitting`."""
        first, *others = self.targets
        fitted = first.fitting(patch_sizes)
        return self if fitted is first else self.model_copy(update={"targets": (fitted, *others)})

    def with_patch_size(self, patch_size: IntTriple, reason: str) -> Plan:
        """Return the plan with another patch size of its first target, and the reason for it."""
        first, *others = self.targets
        if patch_size == first.patch_size:
            return self
        changed = first.model_copy(update={"patch_size": patch_size, "reason": reason})
        return self.model_copy(update={"targets": (changed, *others), "joint": None})

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
        """Why this patch size was chosen, in plain language."""
        return self.target.reason


def read_plan(path: PathLike) -> Plan:
    """Read and validate a ``plan.json``.

    Args:
        path: The file.

    Returns:
        The validated plan.

    Raises:
        PlanError: The file has an unknown key or an impossible value, or is not JSON.
        SchemaVersionError: The file is from a newer patchcore.
        FileNotFoundError: The file does not exist.
    """
    path = Path(path)
    try:
        data: Any = read_json(path)
    except DataError as error:
        raise PlanError(error.message, path=path, remedy="write it again with patchcore plan") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > PLAN_SCHEMA:
        raise SchemaVersionError(
            f"plan has schema version {version}, but this patchcore reads versions up to {PLAN_SCHEMA}",
            path=path,
            remedy="update patchcore",
        )
    try:
        return Plan.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise PlanError(
            explain(error, Plan), path=path, remedy="correct the file, or write it again with patchcore plan"
        ) from None
