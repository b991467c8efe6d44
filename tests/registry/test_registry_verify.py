"""The registry held against the world: what is as stated passes, one corrupted fact or template fails loudly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oxrl_core.config.registry import entry_of_slug, model_slugs, registry_folder
from oxrl_core.config.templates import TURN_TOKENS, chat_template_of
from swarm.onboard.criteria import failed
from swarm.registry import verify_registry
from swarm.registry.evidence import check_evidence, entry_hash, read_evidence
from swarm.registry.facts import check_facts

SLUG = "qwen2.5-0.5b-instruct"
Corrupt = Callable[[dict[str, Any]], None]


def changed(change: Corrupt, slug: str = SLUG) -> dict[str, Any]:
    entry = json.loads(json.dumps(entry_of_slug(slug, registry_folder())))
    change(entry)
    return entry


def at(section: str, key: str, value: object) -> Corrupt:
    return lambda entry: entry[section].__setitem__(key, value)


def top(key: str, value: object) -> Corrupt:
    return lambda entry: entry.__setitem__(key, value)


CORRUPTIONS: dict[str, tuple[Corrupt, str]] = {
    "one layer less": (at("architecture", "num_hidden_layers", 23), "parameters"),
    "a wider layer": (at("architecture", "intermediate_size", 4865), "parameters"),
    "another vocabulary": (at("architecture", "vocab_size", 151937), "parameters"),
    "heads that do not divide": (at("architecture", "num_attention_heads", 13), "parameters"),
    "untied": (at("architecture", "tie_word_embeddings", False), "parameters"),
    "one parameter more": (top("parameters", 494032769), "parameters"),
    "another class": (at("architecture", "architectures", ["Qwen3ForCausalLM"]), "architecture"),
    "an adapter that is not there": (top("lora_target_modules", ["qkv_proj"]), "adapters"),
    "more context than positions": (top("context_length", 65536), "context"),
    "it sees": (top("modality", ["text", "image"]), "entry"),
    "another name": (top("hub", "Qwen/Qwen2.5-1.5B-Instruct"), "entry"),
    "no licence": (top("license", None), "entry"),
    "another turn": (at("template", "generation_prompt", "<|im_start|>model\n"), "template"),
    "no system role": (at("template", "system_role", False), "template"),
    "it thinks": (at("template", "thinking", "on"), "template"),
    "another family": (top("chat_template", "gemma"), "template"),
    "an unknown family": (top("chat_template", "vicuna"), "template"),
}


@pytest.fixture(scope="module")
def checked() -> dict[str, list[str]]:
    """Name of a corruption -> the criteria that are not met; all architectures are built in one process."""
    entries = {name: changed(change) for name, (change, _) in CORRUPTIONS.items()}
    real = {SLUG: entry_of_slug(SLUG, registry_folder()) or {}}
    found: dict[str, list[str]] = {}
    names = {f"{SLUG}": entry for entry in real.values()}
    for slug, criteria in check_facts(names).items():
        found[slug] = failed(criteria)
    # Every corruption has the name of the entry: it is checked under it, one after the other where that is quick.
    from swarm.registry.facts import _architecture, _shape, _template, scan_all

    scans = scan_all({name: entry["architecture"] for name, entry in entries.items()})
    for name, entry in entries.items():
        shape = _shape(SLUG, entry)
        rest = [*_architecture(entry, scans[name]), _template(entry)] if shape.passed else []
        found[name] = failed([shape, *rest])
    return found


@pytest.mark.engine
def test_an_entry_as_it_stands_passes(checked: dict[str, list[str]]) -> None:
    assert checked[SLUG] == []


@pytest.mark.engine
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_one_corrupted_fact_fails_by_name(name: str, checked: dict[str, list[str]]) -> None:
    assert CORRUPTIONS[name][1] in [text.split(":")[0] for text in checked[name]]


@pytest.mark.parametrize(
    "change",
    [
        at("architecture", "rope_theta", 10000.0), at("architecture", "rms_norm_eps", 1e-5), top("gated", True),
        at("architecture", "hidden_act", "gelu"), at("architecture", "eos_token_id", 1), top("license", "mit"),
        at("template", "default_system", "Obey."), lambda entry: entry["template"].pop("default_system"),
    ],
)  # fmt: skip
def test_a_fact_that_counts_nothing_is_known_by_the_evidence(change: Corrupt) -> None:
    assert not check_evidence(SLUG, changed(change)).passed
    assert check_evidence(SLUG, changed(lambda _: None)).passed


def test_every_entry_has_evidence_about_itself() -> None:
    for slug in model_slugs(registry_folder()):
        entry = entry_of_slug(slug, registry_folder()) or {}
        found = check_evidence(slug, entry)
        assert found.passed, (slug, found)
        (kept,) = read_evidence(slug)
        names = {one.name for one in kept.criteria if one.passed}
        assert names >= {
            "parameters", "template", "driver", "all_steps", "finite_loss", "reward", "logprob_gap", "mask_coverage",
            "reload", "sampler_agreement", "weights",
        }, slug  # fmt: skip
        assert kept.versions["torch"] and kept.config_hash and kept.wall_seconds > 0


def test_no_evidence_names_this_machine() -> None:
    for path in (registry_folder() / "evidence").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert str(Path.home()) not in text and str(Path(__file__).parents[2]) not in text and "/tmp/" not in text


@pytest.mark.engine
def test_a_few_entries_are_trained_again_and_a_corrupted_one_is_not(oxrl_home_of_the_test: Path) -> None:
    corrupted = "smollm2-360m-instruct"
    entry = changed(at("architecture", "num_hidden_layers", 31), corrupted)
    own = oxrl_home_of_the_test / "registry" / "models"
    own.mkdir(parents=True)
    (own / f"{corrupted}.yaml").write_text(yaml.safe_dump({"architecture": entry["architecture"]}))
    view = verify_registry([SLUG, "gemma-2-2b-it", corrupted], workers=2)
    found = {one.slug: one for one in view.entries}
    assert (view.verified, view.of) == (2, 3) and corrupted in view.next
    assert found[corrupted].level == "facts" and {text.split(":")[0] for text in found[corrupted].failed} == {
        "parameters", "evidence",
    }  # fmt: skip
    for slug in (SLUG, "gemma-2-2b-it"):
        assert found[slug].verified and found[slug].level == "miniature"
        assert len(found[slug].criteria) >= 15 and found[slug].run_id == ""
    assert list((oxrl_home_of_the_test / "runs").iterdir()) == []  # what was proven is in the criteria
    assert len(entry_hash(entry)) == 16


@pytest.mark.parametrize(
    ("slug", "public"),
    [
        ("qwen2.5-0.5b-instruct", "qwen2_5"), ("qwen3-0.6b", "qwen3"), ("gemma-2-2b-it", "gemma"),
        ("gemma-3-1b-it", "gemma3"), ("llama-3.1-8b-instruct", "llama3_1"), ("phi-3.5-mini-instruct", "phi3_5"),
        ("deepseek-r1-distill-qwen-7b", "deepseek_r1_distill"), ("qwen2.5-vl-3b-instruct", "qwen2_5_vl"),
        ("qwen3-vl-2b-instruct", "qwen3_vl"), ("qwen3.5-27b", "qwen3_5_think"), ("smolvlm-instruct", "smolvlm"),
    ],
)  # fmt: skip
def test_a_template_renders_as_the_published_one(slug: str, public: str) -> None:
    """Against the copies of the hub's templates that TRL ships: prompts of every kind that reinforcement draws from."""
    import trl
    from transformers.utils.chat_template_utils import render_jinja_template

    entry = entry_of_slug(slug, registry_folder()) or {}
    ours = chat_template_of(entry)
    theirs = (Path(trl.__file__).parent / "chat_templates" / f"{public}.jinja").read_text(encoding="utf-8")
    user, answer, again = ("user", "one?"), ("assistant", "1"), ("user", "two?")
    conversations = [[user], [user, answer, again], [("system", "Count."), user]]
    if entry["template"]["system_role"] is False:
        conversations.pop()
    tokens = {"bos_token": "<bos>", "eos_token": TURN_TOKENS[entry["chat_template"]][2]}
    parts = public == "smolvlm"
    for turns in conversations:
        given = [{"role": role, "content": [{"type": "text", "text": text}] if parts else text} for role, text in turns]
        shown = [
            render_jinja_template(conversations=[given], chat_template=text, add_generation_prompt=True, **tokens)[0][0]
            for text in (ours, theirs)
        ]
        assert shown[0] == shown[1], (slug, turns)
