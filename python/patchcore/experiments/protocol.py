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

__all__ = ["EXPERIMENT_SCHEMA", "Budget", "Point", "Protocol", "read_protocol"]

EXPERIMENT_SCHEMA = 1

Budget = Literal["steps", "flops"]
"""What is equal for all points: the number of steps, or the FLOP of the training."""


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
    gflop_per_window: float | None = Field(description="GFLOP of a forward pass of one window; null: not known.")


class Protocol(_Model):
    """An experiment: its points, and what is the same for all of them."""

    schema_version: Literal[1] = 1
    name: str
    kind: Literal["sweep"] = "sweep"
    created: str = Field(description="UTC time, ISO 8601.")
    user: str
    patchcore: str = Field(description="Version that wrote the file.")
    over: dict[str, tuple[str, ...]] = Field(description="Axis → values, as the user wrote them.")
    seeds: tuple[int, ...] = Field(min_length=1)
    folds: tuple[int, ...] = Field(min_length=1)
    budget: Budget
    settings: tuple[str, ...] = Field(description="section.key=value of all points.")
    failures_allowed: int = Field(ge=1, description="A point that has failed so often is not started again.")
    keep_checkpoints: bool = Field(description="Whether a finished point keeps more than its best weights.")
    plan: Plan = Field(
        description="The study's plan when the experiment was created; points differ in patch size only."
    )
    points: tuple[Point, ...] = Field(min_length=1)

    def what_decides(self) -> dict[str, Any]:
        """Return everything but who created the experiment, when, with which version, and the threads of a training.

        The threads follow from the slots of the machine that the experiment began on. It keeps them elsewhere.
        """
        found = self.model_dump(mode="json", exclude={"created", "user", "patchcore"})
        found["settings"] = [text for text in found["settings"] if not text.startswith("train.threads=")]
        return found

    def plan_of(self, point: Point) -> Plan:
        """Return the plan of a point: the plan of the experiment with the point's patch size."""
        first, *others = self.plan.targets
        if point.patch_size == first.patch_size:
            return self.plan
        reason = f"set by the experiment {self.name}; the plan of the study has {first.patch_size}"
        changed = first.model_copy(update={"patch_size": point.patch_size, "reason": reason})
        return self.plan.model_copy(update={"targets": (changed, *others), "joint": None})


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
