"""`oxrl scout` and `oxrl config generate`, in their three outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Oxrl = Callable[..., tuple[int, str, str]]


def test_a_model_for_a_person_an_agent_and_a_program(oxrl: Oxrl):
    asked = ("scout", "gemma-2-2b-it", "--gpus", "1", "--gpu-memory", "24")
    code, text, _ = oxrl(*asked, "--format", "human")
    assert code == 0 and "2.614B" in text and "system role refused" in text and max(map(len, text.splitlines())) <= 80
    code, text, _ = oxrl(*asked)
    assert code == 0 and "verdict=yes" in text and "offline" in text
    code, text, _ = oxrl(*asked, "--json")
    report = json.loads(text)
    assert report["parameters"] == 2_614_341_888 and [view["fits"] for view in report["memory"]] == [True, True]


def test_a_model_that_cannot_be_trained_ends_with_code_two(oxrl: Oxrl):
    code, text, _ = oxrl("scout", "phi-4", "--gpus", "1", "--gpu-memory", "16", "--json")
    report = json.loads(text)
    assert code == 2 and report["verdict"] == "no" and "GiB" in report["reasons"][0]
    assert report["problems"][0]["code"] in ("cuda_oom", "vllm_kv_none")
    code, _, error = oxrl("scout", "no-such-model")
    assert code == 2 and "next:" in error


def test_models_are_listed_page_by_page(oxrl: Oxrl):
    code, text, _ = oxrl("scout", "--search", "coder", "--limit", "2", "--json")
    page = json.loads(text)
    assert code == 0 and len(page["items"]) == 2 and page["next_cursor"] == "registry:2"
    code, text, _ = oxrl("scout", "--search", "coder", "--limit", "2", "--cursor", "registry:2", "--format", "human")
    assert code == 0 and "offline" in text


def test_a_generated_config_is_written_where_it_is_asked_for_and_can_be_trained(oxrl: Oxrl, tmp_path: Path):
    target = tmp_path / "made.yaml"
    asked = ("config", "generate", "miniature:qwen3-0.6b", "train.steps=2", "--gpus", "0", "--out", str(target))
    code, text, _ = oxrl(*asked, "--format", "human")
    assert code == 0 and "asked for" in text and str(target)[:20] in text
    assert oxrl("config", "validate", str(target))[0] == 0
    assert oxrl(*asked)[0] == 2  # it is there already
    code, text, _ = oxrl(*asked, "--force", "--json")
    assert code == 0 and json.loads(text)["config_yaml"] == target.read_text()


def test_nothing_heavy_is_loaded_to_look_at_a_model():
    program = (
        "import sys; from swarm.scout import inspect_model; from swarm.configure import generate_config;"
        "inspect_model('qwen3-4b', 1, 24); generate_config('miniature:qwen3-4b', 'dpo', gpus=0);"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    heavy = ("torch", "transformers", "vllm", "ray", "deepspeed", "numpy", "datasets", "huggingface_hub", "jinja2")
    assert not any(f"'{name}'" in done.stdout for name in heavy)
