"""Typed, documented, torch-free schemas of plan and run."""

from patchcore.config.plan import CandidatePlan, IdealEdge, Plan, RuleOutcome, TargetPlan, read_plan
from patchcore.config.run import RunConfig, config_keys, resolve_config

__all__ = [
    "CandidatePlan",
    "IdealEdge",
    "Plan",
    "RuleOutcome",
    "RunConfig",
    "TargetPlan",
    "config_keys",
    "read_plan",
    "resolve_config",
]
