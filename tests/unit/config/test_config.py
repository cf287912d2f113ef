"""Tests the configuration of a run: precedence, presets, and errors; and errors in a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, ValidationError

from patchcore.config import Plan, RunConfig, config_keys, read_plan, resolve_config
from patchcore.config.explain import explain
from patchcore.errors import ConfigError, PlanError, SchemaVersionError


def test_defaults_are_unetr_as_published() -> None:
    config = resolve_config()
    assert config == RunConfig()
    assert (config.model.hidden_size, config.model.num_heads, config.model.feature_size) == (768, 12, 16)


def test_settings_override_toml_and_toml_overrides_the_base(tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text("seed = 3\n[train]\nsteps = 20\nbatch_size = 4\n")
    base = {"train": {"steps": 10, "batch_size": 1, "fold": 2}}
    config = resolve_config(toml, ["train.steps=30"], base)
    assert (config.seed, config.train.steps, config.train.batch_size, config.train.fold) == (3, 30, 4, 2)


@pytest.mark.parametrize("order", [1, -1])
def test_a_size_stays_set_beside_a_preset_in_any_order(order: int) -> None:
    config = resolve_config(settings=["model.preset=small", "model.feature_size=8"][::order])
    assert (config.model.hidden_size, config.model.feature_size) == (192, 8)


def test_a_preset_takes_back_what_another_filled_in(tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text('[model]\npreset = "tiny"\ndropout = 0.1\n')
    config = resolve_config(toml, ["model.preset=small"])
    assert (config.model.hidden_size, config.model.dropout) == (192, 0.1)
    again = resolve_config(base=json.loads(config.model_dump_json()))
    assert again == config


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("train.step=3", "train.step: unknown key"),
        ("trian.steps=3", "trian: unknown key"),
        ("train.steps.more=3", "unknown key"),
        ("train.steps=0", "train.steps"),
        ("train.steps=many", "train.steps"),
        ("train.steps", "is not a setting"),
        ("=3", "is not a setting"),
        ("model.preset=huge", "model.preset"),
        ("model.num_heads=7", "does not divide"),
        ("train.fold=5", "must be below"),
        ("optim.lr=NaN", "optim.lr"),
        ("seed=-1", "seed"),
    ],
)
def test_what_is_refused_is_named(setting: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        resolve_config(settings=[setting])


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text("[train\n")
    with pytest.raises(ConfigError, match="run"):
        resolve_config(toml)
    with pytest.raises(FileNotFoundError):
        resolve_config(tmp_path / "none.toml")


def test_every_key_has_a_description() -> None:
    keys = config_keys()
    assert "train.steps" in keys
    assert all(description for _, description in keys.values())


def test_one_fault_of_a_plan_is_reported_once_and_plainly() -> None:
    class Part(BaseModel):
        size: int

    class Whole(BaseModel):
        parts: tuple[Part, ...] = Field(min_length=1)

    with pytest.raises(ValidationError) as caught:
        Whole.model_validate_json('{"parts": [{"size": "x"}]}')
    assert explain(caught.value, Whole).startswith("parts.0.size: ")
    assert ";" not in explain(caught.value, Whole)
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate_json('{"parts": []}')
    assert explain(caught.value, Whole).startswith("parts: ")


def test_a_broken_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{")
    with pytest.raises(PlanError, match="not JSON"):
        read_plan(path)
    path.write_text('{"schema_version": 99}')
    with pytest.raises(SchemaVersionError, match="99"):
        read_plan(path)
    path.write_text('{"schema_version": 1, "fingerprint_hash": "x", "targets": [], "extra": 1}')
    with pytest.raises(PlanError, match="extra: unknown key"):
        read_plan(path)


@pytest.mark.parametrize(
    ("setting", "suggestion"),
    [
        ("train.step=100", "train.step: unknown key (did you mean steps?)"),
        ("optim.learning_rate=1", "optim.learning_rate: unknown key"),
        ("trian.steps=1", "trian: unknown key (did you mean train?)"),
    ],
)
def test_suggestions_come_from_the_section_that_is_meant(setting: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(settings=[setting])
    assert suggestion in caught.value.message
    assert "store" not in caught.value.message


def test_a_key_of_a_plan_is_suggested_from_its_part() -> None:
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate({"targets": [{"windowsize": [1, 1, 1]}], "target": 1})
    message = explain(caught.value, Plan)
    assert "targets.0.windowsize: unknown key (did you mean window_size?)" in message
    assert "target: unknown key (did you mean targets?)" in message
