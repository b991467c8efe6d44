"""The user's own registry: it lies over ours, onboardings write there, and the layout of earlier versions comes in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from oxrl_core.config.load import load_config
from oxrl_core.config.registry import entry_of_slug, known_entry, model_entry, model_slugs, registry_folder
from oxrl_core.diagnose.views import Change
from oxrl_core.errors import ConfigError
from swarm.onboard import archive
from swarm.registry import import_registry
from swarm.scout import inspect_model, scout_models

SLUG, HUB = "qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct"
FIX = Change(path="train.micro_batch_tokens", old=8192, new=512, why="out of memory", risk="S")
TEXT = f"run: {{name: a}}\nmodel: {{path: {HUB}}}\ndata: {{train: gsm8k}}\n"


def own(home: Path, slug: str, entry: dict) -> None:
    folder = home / "registry" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{slug}.yaml").write_text(yaml.safe_dump(entry))


def test_an_entry_of_the_users_own_lies_over_ours(oxrl_home_of_the_test: Path) -> None:
    ours = entry_of_slug(SLUG)
    assert ours is not None and load_config(TEXT).config.rollout.memory_fraction != 0.61
    own(oxrl_home_of_the_test, SLUG, {"config": {"rollout": {"memory_fraction": 0.61}}})
    found = entry_of_slug(SLUG)
    assert found is not None and found["parameters"] == ours["parameters"]
    loaded = load_config(TEXT)
    assert loaded.config.rollout.memory_fraction == 0.61
    assert loaded.origins["rollout.memory_fraction"] == f"model {SLUG}"
    assert load_config(TEXT, ["rollout.memory_fraction=0.3"]).config.rollout.memory_fraction == 0.3
    assert load_config(TEXT, registry=registry_folder()).config.rollout.memory_fraction != 0.61


def test_an_entry_that_only_the_user_has_is_listed_scouted_and_known(oxrl_home_of_the_test: Path) -> None:
    entry = entry_of_slug(SLUG) or {}
    before = len(model_slugs())
    own(oxrl_home_of_the_test, "mine", {**entry, "hub": "acme/mine", "summary": "tuned at home"})
    assert len(model_slugs()) == before + 1 and known_entry("mine") == known_entry("acme/mine")
    assert [row.id for row in scout_models("mine").items] == ["acme/mine"]
    report = inspect_model("mine", gpus=0)  # offline: the registry's own facts
    assert report.parameters == 494_032_768 and report.model == "acme/mine"
    assert model_entry("miniature:mine") is not None


@pytest.mark.parametrize("slug", ["../x", "a/b", "", ".hidden", "a\0b"])
def test_a_name_that_is_a_path_is_none(slug: str) -> None:
    assert entry_of_slug(slug) is None


def test_a_kept_fix_outlives_every_later_onboarding_and_reaches_the_configuration(oxrl_home_of_the_test: Path) -> None:
    home = oxrl_home_of_the_test
    facts = {"model": HUB, "verified": {"level": "full", "run_id": "one"}}
    path = archive.write_entry(home, SLUG, facts, {"real": [FIX], "miniature": []})
    assert path == home / "registry" / "models" / f"{SLUG}.yaml"
    assert load_config(TEXT).config.train.micro_batch_tokens == 512
    archive.write_entry(home, SLUG, {"model": HUB, "verified": {"level": "miniature"}}, {"real": [], "miniature": []})
    assert archive.kept_fixes(home, SLUG, "real") == [FIX]
    assert load_config(TEXT).config.train.micro_batch_tokens == 512
    inspect_model(SLUG, gpus=0)  # a second look of the Scout writes nothing
    assert load_config(TEXT).config.train.micro_batch_tokens == 512


def test_what_a_miniature_needed_is_no_setting_of_the_model(oxrl_home_of_the_test: Path) -> None:
    archive.write_entry(oxrl_home_of_the_test, SLUG, {"model": HUB}, {"miniature": [FIX], "real": []})
    assert load_config(TEXT).config.train.micro_batch_tokens != 512


OLD_CONFIG = f"""
run: {{experiment_id: old, training_gpus: 1, rollout_gpus: 1, seed: 42}}
train: {{alg_name: sgrpo, lr: 1.0e-6, train_batch_size_per_gpu: 2, gradient_accumulation_steps: 8}}
model: {{name: {HUB}, dtype: bfloat16, gradient_checkpointing: true, attn_implementation: eager,
         trust_remote_code: true}}
data: {{train_dnames: [gsm8k], max_seq_len: 512}}
reward: {{reward_func: gsm8k_reward_func}}
rollout: {{n_samples: 4, max_tokens: 512, gpu_memory_utilization: 0.4}}
deepspeed: {{zero_optimization: {{stage: 3}}}}
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A registry in the layout of earlier versions: one model that can be read, one without a configuration."""
    folder = tmp_path / "old"
    (folder / SLUG).mkdir(parents=True)
    (folder / SLUG / "config.yaml").write_text(OLD_CONFIG.replace("trust_remote_code: true", "use_cache: false"))
    (folder / SLUG / "results.json").write_text(
        json.dumps({"model_id": HUB, "status": "onboarded", "reward_final": 0.35})
    )
    models = {HUB: {"status": "onboarded", "tasks": ["math"], "dataset": "gsm8k", "error_log": "do as I say"},
              "acme/Lost-7B": {"status": "skipped", "config_path": "/etc/passwd"}}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({"models": models}))
    return folder


def test_the_layout_of_earlier_versions_comes_in_without_its_experiment(old: Path, oxrl_home_of_the_test: Path) -> None:
    view = import_registry(old)
    found = {one.slug: one for one in view.models}
    assert set(found) == {SLUG, "lost-7b"} and found["lost-7b"].problem == "it has no config.yaml"
    one = found[SLUG]
    assert one.problem == "" and one.model == HUB
    assert one.config["model"] == {"precision": "bfloat16", "attention": "eager", "gradient_checkpointing": True}
    assert one.config["rollout"] == {"memory_fraction": 0.4} and "train" not in one.config and "data" not in one.config
    assert one.claims["status"] == "onboarded" and "error_log" not in one.claims
    config = load_config(TEXT).config
    assert config.model.attention == "eager" and config.rollout.memory_fraction == 0.4
    assert "verified" not in (entry_of_slug(SLUG) or {}), "a claim is no verification"


def test_an_import_loses_no_fix_that_was_kept_here(old: Path, oxrl_home_of_the_test: Path) -> None:
    archive.write_entry(oxrl_home_of_the_test, SLUG, {"model": HUB}, {"real": [FIX], "miniature": []})
    import_registry(old)
    import_registry(old)  # again is the same
    assert archive.kept_fixes(oxrl_home_of_the_test, SLUG, "real") == [FIX]
    config = load_config(TEXT).config
    assert config.train.micro_batch_tokens == 512 and config.model.attention == "eager"


def test_code_that_an_old_configuration_trusts_is_not_trusted(old: Path, oxrl_home_of_the_test: Path) -> None:
    (old / SLUG / "config.yaml").write_text(OLD_CONFIG)
    (one, _) = sorted(import_registry(old).models, key=lambda found: found.slug != SLUG)
    assert "trust_remote_code" in one.problem or "trust_remote_code" not in json.dumps(one.config)


def test_a_folder_that_is_no_registry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither"):
        import_registry(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        import_registry(tmp_path / "nowhere")
