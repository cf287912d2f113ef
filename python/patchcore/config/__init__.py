"""Schemas of the plan and of a run's configuration: typed, documented, without torch."""

from patchcore.config.plan import CandidatePlan, IdealEdge, Plan, RuleOutcome, TargetPlan, read_plan
from patchcore.config.run import AugmentConfig, RunConfig, SamplingConfig, config_keys, resolve_config

__all__ = [
    "AugmentConfig",
    "CandidatePlan",
    "IdealEdge",
    "Plan",
    "RuleOutcome",
    "RunConfig",
    "SamplingConfig",
    "TargetPlan",
    "config_keys",
    "read_plan",
    "resolve_config",
]
