"""Checks of cases and cohorts, each with a name, a level, and what to do about what it finds."""

from patchcore.data.checks.cohort import COHORT, cohort_findings
from patchcore.data.checks.decisions import check_decisions, commands, decide, parse_accept, parse_spacing
from patchcore.data.checks.geometry import header_findings, spacing_findings
from patchcore.data.checks.intensity import image_findings
from patchcore.data.checks.labels import label_findings
from patchcore.data.checks.pair import MAX_CORNER_SHIFT, check_ct, check_pair, corner_shift
from patchcore.data.checks.registry import CHECKS, LEVELS, CheckInfo, finding, finding_of, most_serious_first

__all__ = [
    "CHECKS",
    "COHORT",
    "LEVELS",
    "MAX_CORNER_SHIFT",
    "CheckInfo",
    "check_ct",
    "check_decisions",
    "check_pair",
    "cohort_findings",
    "commands",
    "corner_shift",
    "decide",
    "finding",
    "finding_of",
    "header_findings",
    "image_findings",
    "label_findings",
    "most_serious_first",
    "parse_accept",
    "parse_spacing",
    "spacing_findings",
]
