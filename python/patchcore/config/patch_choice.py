"""Which patch sizes of a flexible network a prediction uses: one, several that are averaged, or one per class."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from patchcore.config.patches import patch_triple, size_text
from patchcore.errors import ConfigError
from patchcore.types import IntTriple

if TYPE_CHECKING:
    from patchcore.config.plan import Plan

__all__ = ["PatchChoice"]

_PLAN: Final = "plan"


@dataclass(frozen=True)
class PatchChoice:
    """Patch sizes to predict at.

    Attributes:
        sizes: The probabilities at these sizes are averaged; empty if `by_label` is given.
        by_label: Label → the size at which this class is read. If there are no `sizes` either, the plan says it.

    Example:
        >>> PatchChoice.parse("8,12").sizes
        ((8, 8, 8), (12, 12, 12))
        >>> PatchChoice.parse("1:16,2:8x8x4").by_label
        {1: (16, 16, 16), 2: (8, 8, 4)}
    """

    sizes: tuple[IntTriple, ...] = ()
    by_label: dict[int, IntTriple] | None = None

    @classmethod
    def parse(cls, text: str) -> PatchChoice:
        """Return the choice that a text names.

        ``8``, ``8x8x4``, ``8,12`` (averaged), ``1:16,2:8`` (label:size), or ``plan`` (each label at the size that the
        plan has chosen for it).

        Raises:
            ConfigError: The text names none.
        """
        if text.strip() == _PLAN:
            return cls()
        parts = [re.fullmatch(r"(?:(\d+):)?(\d+)(?:x(\d+)x(\d+))?", part) for part in text.replace(" ", "").split(",")]
        labels = [part[1] for part in parts if part is not None]
        if None in parts or not (all(labels) or not any(labels)):
            raise ConfigError(
                f"patch size {text!r} cannot be read",
                remedy="give 8 or 8x8x4; several that are averaged, as 8,12; one per label, as 1:16,2:8; or plan",
            )
        sizes = [
            patch_triple((int(part[2]), int(part[3]), int(part[4])) if part[3] else int(part[2]))
            for part in parts
            if part
        ]
        if not any(labels):
            return cls(tuple(dict.fromkeys(sizes)))
        if len(set(labels)) < len(labels):
            raise ConfigError(f"patch size {text!r} names a label twice", remedy="give one size per label")
        return cls((), {int(label): size for label, size in zip(labels, sizes, strict=True)})

    def of_plan(self, plan: Plan) -> PatchChoice:
        """Return the choice with the sizes that a plan has chosen for its labels, if it leaves them to the plan.

        Labels that no patch size was chosen for, such as an organ, get that of the first target.
        """
        if self.sizes or self.by_label is not None:
            return self
        own = {target.lesion_label: target.patch_size for target in plan.targets if len(target.lesion_labels) < 2}
        return PatchChoice((), {label: own.get(label, plan.patch_size) for label in plan.target.classes})

    def is_of_plan(self, plan: Plan) -> bool:
        """Return whether this is the patch size of a plan, the one at which a network is validated and tuned."""
        return self.by_label is None and self.sizes == (plan.patch_size,)

    def __str__(self) -> str:
        if not self.sizes and self.by_label is None:
            return _PLAN
        if self.by_label is None:
            return ",".join(map(size_text, self.sizes))
        return ",".join(f"{label}:{size_text(size)}" for label, size in self.by_label.items())

    @property
    def name(self) -> str:
        """A name for files, e.g. ``patch8+12``."""
        if str(self) == _PLAN:
            return "patch-plan"
        return "patch" + str(self).replace(",", "+").replace(":", "-")
