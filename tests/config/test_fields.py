"""No field of the configuration is dead: each is read somewhere outside oxrl_core/config, or goes to DeepSpeed."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxrl_core.config.keys import all_keys, section_of
from oxrl_core.config.load import config_hash, config_to_yaml, load_config
from oxrl_core.config.schema import Config
from oxrl_core.config.sources import list_recipes

ROOT = Path(__file__).parent.parent.parent

# Section of the configuration -> its class; an entry of data.train or data.eval is section "*".
CLASSES = {
    "run": "RunConfig",
    "model": "ModelConfig",
    "lora": "LoraConfig",
    "data": "DataConfig",
    "*": "DatasetConfig",
    "algorithm": "AlgorithmConfig",
    "reward": "RewardConfig",
    "rollout": "RolloutConfig",
    "train": "TrainConfig",
    "deepspeed": "DeepSpeedConfig",
    "report": "ReportConfig",
    "tripwires": "TripwiresConfig",
}
SECTIONS = {name: section for section, name in CLASSES.items()}


def variables_of(tree: ast.AST) -> dict[str, str]:
    """Variables that hold a section: annotated with its class, or assigned from `....<section>`."""
    held: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            name = ast.unparse(node.annotation).strip("'\"")
            if name in SECTIONS:
                held[node.arg] = SECTIONS[name]
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                for one, value in pairs:
                    if isinstance(one, ast.Name) and isinstance(value, ast.Attribute) and value.attr in CLASSES:
                        held[one.id] = value.attr
    return held


@pytest.fixture(scope="module")
def read() -> set[tuple[str, str]]:
    """(section, field) of every reading in the package outside its configuration room."""
    found = set()
    for folder in ("oxrl_core", "oxrl", "mcp_server"):
        for file in (ROOT / folder).rglob("*.py"):
            # The rooms of the configuration read it to explain and check it; only this file of theirs acts on it.
            if file.parent.name == "config" and file.name != "deepspeed.py":
                continue
            tree = ast.parse(file.read_text(encoding="utf-8"))
            variables = variables_of(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    owner = node.value
                    section = variables.get(owner.id, "") if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                    # `for source in config.data.train` holds an entry without saying so.
                    if isinstance(owner, ast.Name) and owner.id == "source":
                        section = "*"
                    found.add((section, node.attr))
    return found


@pytest.mark.parametrize("key", sorted(set(all_keys())))
def test_a_field_is_read_outside_the_configuration(key, read):
    *sections, name = key.split(".")
    assert (sections[-1], name) in read, f"nothing reads {key}: use it or remove it"


@pytest.mark.parametrize("key", sorted(set(all_keys())))
def test_a_field_is_documented_in_one_line(key):
    section = section_of(key.replace("*", "0"))
    description = section.model_fields[key.rpartition(".")[2]].description
    assert description and "\n" not in description and len(description) <= 120


def test_only_three_keys_have_no_default():
    required = {
        key for key in all_keys() if section_of(key.replace("*", "0")).model_fields[key.split(".")[-1]].is_required()
    }
    assert required == {"run.name", "model.path", "data.train.*.name", "data.eval.*.name"}
    assert {name for name, field in Config.model_fields.items() if field.is_required()} == {"run", "model", "data"}


def test_a_config_cannot_be_changed_and_takes_no_infinity():
    config = load_config("demo").config
    with pytest.raises(Exception, match="frozen"):
        config.train.lr = 1.0
    with pytest.raises(Exception, match="finite"):
        Config.model_validate({**config.model_dump(), "train": {"lr": float("inf")}})


# --- recipes and the round trip --------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [recipe.name for recipe in list_recipes()])
def test_a_recipe_loads_and_says_what_it_is(recipe):
    loaded = load_config(recipe)
    info = next(info for info in list_recipes() if info.name == recipe)
    assert loaded.config.run.name == recipe and loaded.notes == []
    assert 20 < len(info.summary) <= 130 and not info.summary.endswith(".")
    assert load_config(config_to_yaml(loaded.config)).config == loaded.config


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
NUMBER = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False)
OVERRIDES = {
    "run.name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    "run.seed": st.integers(0, 2**62),
    "model.path": TEXT,
    "model.revision": st.none() | TEXT,
    "data.system_prompt": st.none() | TEXT,
    "data.train": st.lists(
        st.fixed_dictionaries({"name": TEXT, "ratio": NUMBER, "prompt_column": st.none() | TEXT}), min_size=1
    ),
    "train.lr": NUMBER,
    "train.steps": st.none() | st.integers(1, 10**9),
    "train.stop_at_reward": st.none() | st.floats(-1e6, 1e6),
    "train.betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)).map(list),
    "algorithm.clip_high": st.floats(0, 100),
    "model.lora.target_modules": st.just("all-linear") | st.lists(TEXT, min_size=1),
    "rollout.record": st.booleans(),
}


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=OVERRIDES))
def test_writing_and_loading_gives_an_equal_config_with_an_equal_hash(values):
    config = load_config("demo", [f"{key}={json.dumps(value)}" for key, value in values.items()]).config
    again = load_config(config_to_yaml(config)).config
    assert again == config and config_hash(again) == config_hash(config)
