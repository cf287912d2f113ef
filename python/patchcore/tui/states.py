"""How run states are displayed: a one-cell symbol, a word and a theme colour, never a colour alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

if TYPE_CHECKING:
    from patchcore.runs import RunState

__all__ = ["LEVEL_COLOUR", "state_content", "state_parts"]

# Symbol and colour. No emoji and no wide characters: each symbol is one cell wide in every terminal.
_LOOK = {
    "queued": ("·", "$foreground-muted"),
    "starting": ("○", "$text-accent"),
    "running": ("●", "$text-success"),
    "pausing": ("‖", "$text-warning"),
    "paused": ("‖", "$text-warning"),
    "stopping": ("□", "$text-warning"),
    "stopped": ("■", "$text-warning"),
    "finished": ("✓", "$text-success"),
    "failed": ("✗", "$text-error"),
    "killed": ("✗", "$text-error"),
    "out of memory": ("✗", "$text-error"),
    "crashed": ("✗", "$text-error"),
    "orphaned": ("!", "$text-warning"),
    "stale": ("?", "$text-warning"),
    "presumed crashed": ("?", "$text-error"),
    "stalled": ("!", "$text-warning"),
}

LEVEL_COLOUR = {"info": "$text-accent", "warning": "$text-warning", "error": "$text-error"}


def state_parts(state: RunState) -> tuple[Content, Content]:
    """Return the coloured symbol and the coloured word of a state."""
    glyph, colour = _LOOK.get(state.value, ("?", "$foreground-muted"))
    return Content.styled(glyph, colour), Content.styled(state.value, colour)


def state_content(state: RunState) -> Content:
    """Return the coloured symbol and word of a state as one text."""
    return Content(" ").join(state_parts(state))
