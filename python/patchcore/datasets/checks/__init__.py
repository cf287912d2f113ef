"""Checks of cases and cohorts; each check has a name, a level and a remedy."""

from patchcore.datasets.checks.cohort import COHORT, cohort_findings
from patchcore.datasets.checks.decisions import (
    check_decisions,
    commands,
    decide,
    parse_accept,
    parse_spacing,
    read_spacing_file,
)
from patchcore.datasets.checks.geometry import header_findings, spacing_findings
from patchcore.datasets.checks.intensity import image_findings
from patchcore.datasets.checks.labels import label_findings
from patchcore.datasets.checks.pair import check_pair
from patchcore.study.checks import CHECKS, LEVELS, CheckInfo, finding, finding_of, most_serious_first

__all__ = [
    "CHECKS",
    "COHORT",
    "LEVELS",
    "CheckInfo",
    "check_decisions",
    "check_pair",
    "cohort_findings",
    "commands",
    "decide",
    "finding",
    "finding_of",
    "header_findings",
    "image_findings",
    "label_findings",
    "most_serious_first",
    "parse_accept",
    "parse_spacing",
    "read_spacing_file",
    "spacing_findings",
]
