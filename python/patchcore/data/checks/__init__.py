"""Checks of cases and cohorts, each with a name, a level, and what to do about what it finds."""

from patchcore.data.checks.pair import MAX_CORNER_SHIFT, check_ct, check_pair, corner_shift

__all__ = ["MAX_CORNER_SHIFT", "check_ct", "check_pair", "corner_shift"]
