"""The table of texts: what each matches, and what is proposed for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oxrl_core.config.load import load_config
from oxrl_core.diagnose.logs import literals_of
from oxrl_core.diagnose.plans import SAFE_KEYS, PlanFacts, first_attempt
from oxrl_core.diagnose.tables import all_causes, all_signatures, plan_for
from oxrl_core.errors import OxrlError

BASE = load_config("sgrpo").config.model_dump(mode="json")


def changed(**values: object) -> dict[str, object]:
    config = load_config("sgrpo").config.model_dump(mode="json")
    for path, value in values.items():
        section, _, key = path.partition("__")
        config[section][key] = value
    return config


def test_there_are_74_signatures_with_the_classes_of_the_survey() -> None:
    risks = [entry.what.risk for entry in all_signatures().values()]
    assert len(risks) == 74
    assert {risk: risks.count(risk) for risk in "SAN"} == {"S": 41, "A": 13, "N": 20}


def test_every_pain_of_the_survey_has_a_cause_that_is_looked_for() -> None:
    assert {pain for cause in all_causes().values() for pain in cause.pains} == set(range(1, 21))


def test_every_explained_finding_exists() -> None:
    known = set(all_causes()) | set(all_signatures())
    assert {name for cause in all_causes().values() for name in cause.explains} <= known


@pytest.mark.parametrize("name", sorted(all_signatures()))
def test_a_signature_names_a_plain_text_that_its_lines_hold(name: str) -> None:
    # Lines are found by plain text first: a signature without one would cost seconds on a long log.
    texts = literals_of(all_signatures()[name].regex)
    assert texts and min(len(text) for text in texts) >= 5


def test_nothing_of_class_n_is_ever_patched() -> None:
    for signature in all_signatures().values():
        if signature.what.risk == "N":
            assert plan_for(signature, BASE) == []


@pytest.mark.parametrize("name", sorted(all_signatures()))
def test_a_plan_names_keys_of_our_configuration(name: str) -> None:
    for rule in all_signatures()[name].plan:
        section, _, key = rule.path.partition(".")
        assert key.split(".")[0] in BASE[section] or rule.path == "data.train.0.split"


@pytest.mark.parametrize("name", sorted(all_causes()))
def test_the_remedies_of_causes_name_keys_of_our_configuration(name: str) -> None:
    for rule in all_causes()[name].plan:
        try:
            load_config("sgrpo", [f"{rule.path}=1"])
        except OxrlError as error:
            assert "is not a key" not in str(error) and "unknown" not in str(error).lower(), rule.path


def test_too_many_heads_for_the_tensor_parallel_size() -> None:
    # 14 heads on 4 GPUs: 4 and 3 do not divide 14, 2 does.
    facts = PlanFacts(numbers={"h": "14", "tp": "4"})
    (patch,) = plan_for("vllm_tp_heads", changed(rollout__tensor_parallel=4), facts)
    assert (patch.path, patch.old, patch.new, patch.risk) == ("rollout.tensor_parallel", 4, 2, "S")


def test_a_busy_gpu_leaves_the_share_that_is_free() -> None:
    # 30 of 80 GiB are free: 0.375, less 0.02.
    (patch,) = plan_for("vllm_gpu_busy", BASE, PlanFacts(numbers={"free": "30", "tot": "80"}))
    assert patch.new == pytest.approx(0.355)


def test_the_length_that_fits_is_what_vllm_says_less_the_prompt_and_is_an_experiment() -> None:
    plan = plan_for("vllm_kv_small", changed(data__max_prompt_tokens=512), PlanFacts(numbers={"est": "2048"}))
    (shorter,) = [patch for patch in plan if patch.path == "rollout.max_completion_tokens"]
    assert (shorter.new, shorter.risk) == (1536, "A")


def test_memory_of_the_gpu_by_phase() -> None:
    rollout = plan_for("cuda_oom", BASE, PlanFacts(phase="rollout"))
    assert [patch.path for patch in rollout] == ["rollout.memory_fraction"]
    train = plan_for("cuda_oom", BASE, PlanFacts(phase="train"))
    assert [patch.path for patch in train] == [
        "train.micro_batch_tokens",
        "model.gradient_checkpointing",
        "deepspeed.offload_optimizer",
    ]
    assert train[0].new == 4096  # half of 8192
    assert {patch.risk for patch in train} == {"S"}
    assert not any("group_size" in patch.path for patch in [*rollout, *train])


def test_no_patch_twice_and_none_below_its_floor() -> None:
    tried = PlanFacts(phase="train", tried=[("train.micro_batch_tokens", 4096)])
    assert plan_for("cuda_oom", BASE, tried)[0].path == "model.gradient_checkpointing"
    small = changed(train__micro_batch_tokens=256, model__gradient_checkpointing=True)
    assert plan_for("cuda_oom", small, PlanFacts(phase="train"))[0].path == "deepspeed.offload_optimizer"


def test_a_learning_rate_is_never_a_safe_change() -> None:
    assert "train.lr" not in SAFE_KEYS
    (patch,) = plan_for("nan_probs", BASE)
    assert (patch.path, patch.new, patch.risk) == ("train.lr", 5e-4, "A")


def test_a_split_is_taken_where_there_is_one_only() -> None:
    assert plan_for("ds_split", BASE, PlanFacts(numbers={"s": "dev", "l": "['test']"}))[0].new == "test"
    assert plan_for("ds_split", BASE, PlanFacts(numbers={"s": "dev", "l": "['a', 'b']"})) == []


def test_the_first_attempt_is_one_change_and_what_goes_with_it() -> None:
    assert [patch.path for patch in first_attempt(plan_for("cuda_oom", BASE))] == ["train.micro_batch_tokens"]


def test_regular_expressions_have_no_leading_wildcard() -> None:
    assert not [name for name, entry in all_signatures().items() if re.match(r"\.[*+]", entry.regex)]


def test_the_page_names_every_cause_of_each_pain() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "diagnose.md").read_text()
    named = {
        int(number): set(re.findall(r"`(\w+)`", causes))
        for number, causes in re.findall(r"^\| (\d+) \|[^|]*\| (.*) \|$", page, re.MULTILINE)
    }
    looked_for = {pain: {cause.id for cause in all_causes().values() if pain in cause.pains} for pain in range(1, 21)}
    assert named == looked_for
