"""What may be changed about a run that failed, and what never: also not where a policy or a caller asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.config.load import load_config
from oxrl_core.diagnose.views import Change
from oxrl_core.errors import ConfigError, OxrlError
from swarm.bugfix.gate import ALLOWED, INVARIANT, PatchRefused, as_change, check_invariants, check_patch, settings_of
from swarm.bugfix.policy import Policy, read_policy

SETTINGS = load_config("sgrpo").config.model_dump(mode="json")
ASKING, SCIENCE = Policy(), Policy(science_changes=True)


def check(text: str, policy: Policy = ASKING) -> list[Change]:
    return check_patch([as_change(text, SETTINGS)], SETTINGS, policy)


@pytest.mark.parametrize(
    "cheat",
    [
        "train.steps=1", "train.epochs=0.01", "train.stop_at_reward=-1", "train.eval_every=0", "train.eval_rows=1",
        "data.eval=[]", "reward.name=none", "reward.name=always_one.py:one", "reward.self_test_rows=0",
        "rollout.logprob_gap_limit=10", "rollout.fingerprint_limit=10", "rollout.record=false",
        "tripwires.stop_on=[]", "run.seed=7", "algorithm.name=sft", "model.path=miniature:chars",
    ],
)  # fmt: skip
@pytest.mark.parametrize("policy", [ASKING, SCIENCE])
def test_a_fix_that_passes_by_doing_less_is_refused_whatever_the_policy(cheat: str, policy: Policy) -> None:
    with pytest.raises(PatchRefused):
        check(cheat, policy)


@pytest.mark.parametrize("science", ["train.lr=1e-5", "rollout.group_size=4", "data.max_prompt_tokens=64"])
def test_a_change_of_what_is_learned_needs_the_operators_policy(science: str) -> None:
    with pytest.raises(PatchRefused, match="changes what is learned"):
        check(science)
    assert check(science, SCIENCE)[0].risk == "A"


def test_the_policy_is_a_file_of_the_operator(tmp_path: Path) -> None:
    assert not read_policy(tmp_path).science_changes
    (tmp_path / "policy.yaml").write_text("science_changes: true\n")
    assert read_policy(tmp_path).science_changes
    (tmp_path / "policy.yaml").write_text("trust_remote_code: true\n")
    with pytest.raises(ConfigError, match="is no policy"):
        read_policy(tmp_path)


def test_a_smaller_micro_batch_is_applied_alone() -> None:
    (change,) = check("train.micro_batch_tokens=512")
    assert (change.risk, change.old, change.new) == ("S", 8192, 512)


@pytest.mark.parametrize(
    "text",
    ["rollout.memory_fraction=0.99", "train.micro_batch_tokens=0", "model.attention=flash_attention_2",
     "run.call_timeout_seconds=1", "rollout.num_workers=8", "train.micro_batch_tokens=true"],
)  # fmt: skip
def test_bounds_hold(text: str) -> None:
    with pytest.raises(PatchRefused):
        check(text, SCIENCE)


def test_a_group_of_one_is_refused_though_groups_may_change() -> None:
    with pytest.raises(PatchRefused, match="between 2"):
        check("rollout.group_size=1", SCIENCE)


def test_no_patch_is_made_twice() -> None:
    change = as_change("train.micro_batch_tokens=512", SETTINGS)
    with pytest.raises(PatchRefused, match="tried before"):
        check_patch([change], SETTINGS, ASKING, [("train.micro_batch_tokens", 512)])


def test_more_changes_than_a_handful_are_refused() -> None:
    with pytest.raises(PatchRefused, match="at once"):
        check_patch([as_change("train.micro_batch_tokens=512", SETTINGS)] * 6, SETTINGS, SCIENCE)


def test_what_must_stay_is_compared_in_the_resolved_configurations() -> None:
    after = load_config("sgrpo", ["train.lr=3e-3"]).config.model_dump(mode="json")
    unasked = [as_change("model.gradient_checkpointing=true", SETTINGS)]
    with pytest.raises(PatchRefused, match=r"train\.lr"):
        check_invariants(SETTINGS, after, unasked)
    check_invariants(SETTINGS, after, [check("train.lr=3e-3", SCIENCE)[0]])


def test_a_smaller_micro_batch_keeps_the_rows_of_a_step() -> None:
    after, failure = settings_of("run: {name: a}\nmodel: {path: 'miniature:chars'}\ndata: {train: copy3}\n", [])
    halved, _ = settings_of(
        "run: {name: a}\nmodel: {path: 'miniature:chars'}\ndata: {train: copy3}\n", ["train.micro_batch_tokens=4096"]
    )
    assert failure is None
    check_invariants(after, halved, [as_change("train.micro_batch_tokens=4096", after)])
    assert halved["train"]["prompts_per_step"] == after["train"]["prompts_per_step"]


KEYS = sorted(
    {f"{section}.{key}" for section, values in SETTINGS.items() for key in values}
    | {"trust_remote_code", "model.trust_remote_code", "run.env", "os.environ", "data.train.0.name"}
)


@given(
    key=st.sampled_from(KEYS),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False), st.text(max_size=12),
        st.lists(st.text(max_size=5), max_size=2),
    ),
    science=st.booleans(),
)  # fmt: skip
def test_whatever_is_proposed_nothing_outside_the_list_is_let_through(key: str, value: object, science: bool) -> None:
    change = Change(path=key, old=None, new=value, why="", risk="S")
    try:
        checked = check_patch([change], SETTINGS, Policy(science_changes=science))
    except OxrlError:
        return
    assert key in ALLOWED
    assert science or checked[0].risk == "S"
    assert key not in INVARIANT or checked[0].risk == "A"
