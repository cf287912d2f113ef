"""``experiment.json``: what is compared with what, under which conditions. Written once and never changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patchcore.config import Plan
from patchcore.config.explain import explain
from patchcore.errors import RunError, SchemaVersionError
from patchcore.files import read_json
from patchcore.types import IntTriple

__all__ = [
    "EXPERIMENT_SCHEMA",
    "Budget",
    "Extension",
    "OtherStudy",
    "Point",
    "Protocol",
    "read_extension",
    "read_protocol",
    "with_patch_size",
]

EXPERIMENT_SCHEMA = 1

Budget = Literal["steps", "flops", "hours"]
"""What is equal for all points: the number of steps, the FLOP of the training, or its time."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(_Model):
    """One training of an experiment."""

    point_id: str = Field(min_length=1, description="Name of the point, unique within the experiment.")
    values: dict[str, str] = Field(description="Axis → the value of this point, as text.")
    patch_size: IntTriple = Field(description="Patch edge per canonical axis [voxels].")
    settings: tuple[str, ...] = Field(description="section.key=value, in addition to the settings of all points.")
    seed: int = Field(ge=0)
    fold: int = Field(ge=0)
    steps: int = Field(ge=1, description="Number of training steps.")
    patch_sizes: tuple[IntTriple, ...] = Field(
        default=(), description="Patch sizes of a flexible network, which is evaluated at each; empty: a fixed network."
    )
    gflop_per_window: float | None = Field(
        description="GFLOP of a forward pass of one window; of a flexible network, the mean over its steps; null: not "
        "known."
    )
    step_s: float | None = Field(
        default=None, description="With a budget in hours: time of a step, measured before the start [s]."
    )
    study: str = Field(default="", description="Key of the study that is trained on; empty: that of the experiment.")
    after: str | None = Field(
        default=None, description="Point that must be finished before, and gives the initial weights; null: none."
    )

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes the point different from all others of its experiment. Its name may depend on the others."""
        return (self.study, tuple(sorted(self.values.items())), self.patch_size, self.seed, self.fold)


class OtherStudy(_Model):
    """Another study that points of the experiment are trained on, and its plan there."""

    path: str = Field(description="Its folder, relative to the study of the experiment.")
    study_id: str
    plan: Plan = Field(description="Its plan in this experiment; its own plan.json is neither used nor changed.")


class Protocol(_Model):
    """An experiment: its points, and what is the same for all of them."""

    schema_version: Literal[1] = 1
    name: str
    kind: Literal["sweep", "transfer"] = "sweep"
    created: str = Field(description="UTC time, ISO 8601.")
    user: str
    patchcore: str = Field(description="Version that wrote the file.")
    over: dict[str, tuple[str, ...]] = Field(description="Axis → values, as the user wrote them.")
    seeds: tuple[int, ...] = Field(min_length=1)
    folds: tuple[int, ...] = Field(min_length=1)
    flexible: bool = Field(default=False, description="Whether one network is trained for all values of patch_size.")
    budget: Budget
    hours: float | None = Field(default=None, gt=0, description="With a budget in hours: hours of each training.")
    settings: tuple[str, ...] = Field(description="section.key=value of all points.")
    failures_allowed: int = Field(ge=1, description="A point that has failed so often is not started again.")
    keep_checkpoints: bool = Field(description="Whether a finished point keeps more than its best weights.")
    plan: Plan = Field(
        description="The study's plan when the experiment was created; points differ in patch size only."
    )
    studies: dict[str, OtherStudy] = Field(default_factory=dict, description="Key → other studies.")
    points: tuple[Point, ...] = Field(min_length=1)

    def what_decides(self) -> dict[str, Any]:
        """Return everything but who created the experiment, when, with which version, and the threads of a training.

        The threads follow from the slots of the machine that the experiment began on. It keeps them elsewhere.
        """
        found = self.model_dump(mode="json", exclude={"created", "user", "patchcore"})
        for point in found["points"]:
            point["step_s"] = None  # measured again, it is never the same
            if self.budget == "hours":
                point["steps"], point["settings"] = 0, [t for t in point["settings"] if "train.steps=" not in t]
        found["settings"] = [text for text in found["settings"] if not text.startswith("train.threads=")]
        return found

    def plan_of(self, point: Point) -> Plan:
        """Return the plan of a point: the plan of the experiment with the point's patch size."""
        plan = self.plan if not point.study else self.studies[point.study].plan
        return with_patch_size(plan, point.patch_size, self.name)


def with_patch_size(plan: Plan, patch_size: IntTriple, experiment: str) -> Plan:
    """Return a plan with another patch size; the reason names the experiment that has set it."""
    reason = f"set by the experiment {experiment}; the plan of the study has {plan.patch_size}"
    return plan.with_patch_size(patch_size, reason)


class Extension(_Model):
    """Points that were added to an experiment later: ``extensions/NUMBER.json``."""

    created: str = Field(description="UTC time, ISO 8601.")
    user: str
    patchcore: str
    finished: int = Field(description="Number of points that had finished before: their results may have been seen.")
    points: tuple[Point, ...] = Field(min_length=1)


def read_protocol(path: Path) -> Protocol:
    """Read and validate an ``experiment.json``.

    Raises:
        RunError: The file is missing, damaged, or has an unknown key or an impossible value.
        SchemaVersionError: A newer patchcore wrote it.
    """
    try:
        data: Any = read_json(path)
    except FileNotFoundError:
        raise RunError("not an experiment folder (it has no experiment.json)", path=path.parent) from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > EXPERIMENT_SCHEMA:
        raise SchemaVersionError(
            f"experiment.json has schema version {version}, but this patchcore reads versions up to "
            f"{EXPERIMENT_SCHEMA}",
            path=path,
            remedy="update patchcore",
        )
    try:
        return Protocol.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise RunError(f"the experiment cannot be read: {explain(error, Protocol)}", path=path) from None


def read_extension(path: Path) -> Extension:
    """Read and validate a file of ``extensions/``.

    Raises:
        RunError: It is damaged.
    """
    try:
        return Extension.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(f"the extension cannot be read: {explain(error, Extension)}", path=path) from None
