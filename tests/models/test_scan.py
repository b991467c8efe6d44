"""A model on the meta device: its parameters and layers, without a weight and without code that it names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from oxrl_core.models.scan import scan, without_code

MODELS = Path(__file__).parents[2] / "registry" / "models"


@pytest.mark.parametrize(
    "slug", ["qwen2.5-0.5b-instruct", "gemma-3-4b-it", "qwen3.5-35b-a3b", "qwen2-audio-7b-instruct"]
)
def test_the_registry_counts_parameters_as_transformers_does(slug: str):
    entry = yaml.safe_load((MODELS / f"{slug}.yaml").read_text())
    found = scan(entry["architecture"])
    assert found["parameters"] == entry["parameters"]
    assert found["architecture"] == entry["architecture"]["architectures"][0]
    assert set(entry["lora_target_modules"]) <= set(found["linear"]) and "lm_head" not in found["linear"]


def test_what_names_code_is_taken_out_at_any_depth():
    config = {"model_type": "x", "_attn_implementation_internal": "a/b", "text_config": {"auto_map": {}, "size": 1}}
    assert without_code(config) == {"model_type": "x", "text_config": {"size": 1}}


def test_an_architecture_that_nobody_knows_is_an_answer():
    done = subprocess.run(
        [sys.executable, "-m", "oxrl_core.models.scan"],
        input=json.dumps({"model_type": "never-heard-of"}),
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "error" in json.loads(done.stdout.splitlines()[-1])
