"""A recipe is a set of settings that everything a user sets overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from patchcore.config.recipes import RECIPES
from patchcore.config.run import RunConfig, resolve_config
from patchcore.errors import ConfigError

LESIONS = RECIPES["lesions"]


def values(config: RunConfig) -> dict[str, Any]:
    return {f"{section}.{key}": config.model_dump()[section][key] for section in LESIONS for key in LESIONS[section]}


EXPECTED = {f"{section}.{key}": value for section, keys in LESIONS.items() for key, value in keys.items()}


def test_a_recipe_changes_its_settings_and_no_other() -> None:
    found = resolve_config(settings=["recipe=lesions"]).model_dump()
    plain = RunConfig().model_dump()
    for name, value in EXPECTED.items():
        section, key = name.split(".")
        assert found[section].pop(key) == value != plain[section].pop(key)
    assert (found.pop("recipe"), plain.pop("recipe")) == ("lesions", "plain")
    assert found == plain


def test_what_a_user_sets_comes_after_the_recipe(tmp_path: Path) -> None:
    for settings in (["optim.lr=1e-4", "recipe=lesions"], ["recipe=lesions", "optim.lr=1e-4"]):
        assert values(resolve_config(settings=settings)) == EXPECTED | {"optim.lr": 1e-4}
    toml = tmp_path / "run.toml"
    toml.write_text('recipe = "lesions"\n[optim]\nlr = 1e-4\n')
    assert values(resolve_config(toml)) == EXPECTED | {"optim.lr": 1e-4}
    assert values(resolve_config(toml, ["optim.lr=2e-4"])) == EXPECTED | {"optim.lr": 2e-4}
    # Sizes of a network and a recipe do not touch each other.
    small = resolve_config(settings=["recipe=lesions", "model.preset=small"])
    assert values(small) == EXPECTED
    assert small.model.hidden_size == 192


def test_a_recipe_or_preset_on_the_command_line_leaves_what_a_file_sets(tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text('recipe = "lesions"\n[optim]\nlr = 1e-3\nema = 0.99\n[model]\npreset = "base"\nhidden_size = 48\n')
    for recipe in ("lesions", "plain"):
        found = resolve_config(toml, [f"recipe={recipe}", "model.preset=tiny", "optim.ema=0.98"])
        assert found.recipe == recipe
        assert (found.optim.lr, found.optim.ema) == (1e-3, 0.98)
        assert found.optim.weight_decay == (0.05 if recipe == "lesions" else None)
        assert found.model.hidden_size == 48
        assert found.model.mlp_dim == resolve_config(settings=["model.preset=tiny"]).model.mlp_dim
    with pytest.raises(ConfigError):
        resolve_config(toml, ["model=3"])


def test_a_recipe_given_later_replaces_the_earlier_one() -> None:
    base = resolve_config(settings=["recipe=lesions", "optim.clip_norm=2"]).model_dump(mode="json")
    assert resolve_config(base=base).model_dump(mode="json") == base
    plain = resolve_config(settings=["recipe=plain"], base=base)
    assert plain == resolve_config(settings=["optim.clip_norm=2"])
    assert (
        resolve_config(settings=["recipe=lesions"], base=plain.model_dump(mode="json")).model_dump(mode="json") == base
    )


def test_another_network_gets_what_it_knows_of_a_recipe() -> None:
    config = resolve_config(settings=["recipe=lesions", "model.network=dynunet"])
    assert values(config) == EXPECTED | {"model.tokenizer": "linear"}
    with pytest.raises(ConfigError, match=r"model\.tokenizer is for unetr"):
        resolve_config(settings=["recipe=lesions", "model.network=dynunet", "model.tokenizer=pyramid"])


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="recipe"):
        resolve_config(settings=["recipe=tumours"])
