"""What a replay or a fork is refused for, and where it would begin: said before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from oxrl_core.api.replay import check_fork, create_fork, create_replay
from oxrl_core.config.load import config_hash, load_config
from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.runs.replay import check_can_repeat, start_before
from oxrl_core.runs.rundir import RunDir

CONFIG = {
    "run": {"name": "parent", "backend": "local"},
    "model": {"path": "miniature:chars"},
    "data": {"train": "copy3"},
    "reward": {"name": "positions"},
    "rollout": {"engine": "transformers", "group_size": 4, "max_completion_tokens": 4},
    "train": {"prompts_per_step": 4, "steps": 9, "lr": 1e-3},
}


@pytest.fixture
def parent(tmp_path: Path) -> RunDir:
    """Eight steps done, checkpoints of steps 4 and 6, and the rollouts of all steps but 1 and 3."""
    run = RunDir.create(tmp_path, load_config(CONFIG), "rl")
    for step in range(9):
        run.append_metrics({"step": step, "loss": step / 8})
    for step in (4, 6):
        folder = run.checkpoints / f"step_{step:08d}"
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        (folder / "rank-00000.safetensors").write_bytes(b"weights")
    for step in (2, 4, 5, 6, 7, 8):
        (run.rollouts / f"step-{step:08d}.parquet").write_bytes(b"")
    run.write_progress("training", 8, 9)
    return run


@pytest.mark.parametrize(("step", "start"), [(3, 0), (4, 4), (5, 4), (6, 6), (8, 6)])
def test_the_newest_checkpoint_that_is_not_after_the_step(parent: RunDir, step: int, start: int) -> None:
    assert start_before(parent, step).step == start


def test_a_step_itself_is_repeated_from_a_checkpoint_before_it(parent: RunDir) -> None:
    assert check_can_repeat(parent, 6).step == 4
    assert check_can_repeat(parent, 7).name == "step_00000006"
    assert check_can_repeat(parent, 6, from_step=0).step == 6


def test_a_checkpoint_that_is_not_committed_is_none(parent: RunDir) -> None:
    (parent.checkpoints / "step_00000006" / "manifest.json").unlink()
    (parent.checkpoints / ".tmp-7-abc").mkdir()
    assert start_before(parent, 8).step == 4


def test_a_step_that_was_not_done_or_not_recorded_is_refused_with_what_there_is(parent: RunDir) -> None:
    with pytest.raises(NotFoundError, match="no step 9") as caught:
        check_can_repeat(parent, 9)
    assert "8 steps" in caught.value.next_step
    with pytest.raises(NotFoundError, match="of 2 steps on the way from the initial model to step 4") as caught:
        check_can_repeat(parent, 4)
    assert "first of step 1" in caught.value.what
    assert "(kept: 4, 6)" in caught.value.next_step


@pytest.mark.parametrize("override", ["rollout.temperature=0.5", "data.shuffle=false", "run.seed=1"])
def test_what_if_other_completions_had_been_drawn_is_no_question_for_a_replay(parent: RunDir, override: str) -> None:
    with pytest.raises(ConfigError, match="not recorded"):
        create_replay(parent.home, parent, 7, [override])


@pytest.mark.parametrize(
    "override", ["train.lr=1e-6", "reward.clip=0.5", "algorithm.clip_high=0.3", "algorithm.name=cispo"]
)
def test_what_if_may_change_what_is_learned_of_them(parent: RunDir, override: str) -> None:
    run = create_replay(parent.home, parent, 7, [override])
    assert run.spec()["replay"]["overrides"] == [override]
    assert config_hash(run.config()) != config_hash(parent.config())


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.path=miniature:words", "another model"),
        ("model.lora.enabled=true", "trained parameters are others"),
        ("deepspeed.zero_stage=1", "other pieces"),
        ("algorithm.advantage=gae", "critic"),
        ("algorithm.name=sft", "sft"),
        ("train.steps=7", "last of 7"),
        ("train.resume=false", "from a checkpoint"),
    ],
)
def test_a_fork_is_refused_what_its_state_cannot_be_loaded_into(parent: RunDir, override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_fork(parent, 7, [override])


def test_a_fork_inherits_checkpoint_and_metrics_up_to_the_step_and_costs_no_disk(parent: RunDir) -> None:
    run, created = create_fork(parent.home, parent, 7, ["train.lr=1e-5"])
    assert created
    origin = run.spec()["parent"]
    assert (origin["run_id"], origin["step"], origin["overrides"]) == (parent.run_id, 7, ["train.lr=1e-5"])
    assert [path.name for path in run.checkpoints.iterdir()] == ["step_00000006"]
    weights = "step_00000006/rank-00000.safetensors"
    assert (run.checkpoints / weights).samefile(parent.checkpoints / weights)
    assert [row["step"] for row in run.metrics()] == list(range(8))
    assert run.config().train.lr == 1e-5
    assert [event["code"] for event in run.events()] == ["created", "forked"]


def test_a_fork_with_other_rows_or_draws_says_so(parent: RunDir) -> None:
    facts = [
        create_fork(parent.home, parent, 6, [override])[0].spec()["parent"]
        for override in ("train.lr=1e-5", "rollout.temperature=0.9", "data.train=reverse3")
    ]
    assert [(one["other_rows"], one["other_draws"]) for one in facts] == [(False, False), (False, True), (True, True)]


def test_the_same_key_forks_once_and_another_fork_of_that_key_is_refused(parent: RunDir) -> None:
    first, _ = create_fork(parent.home, parent, 6, key="a")
    again, created = create_fork(parent.home, parent, 6, key="a")
    assert (again.run_id, created) == (first.run_id, False)
    with pytest.raises(ConfigError, match="which is another"):
        create_fork(parent.home, parent, 7, key="a")


def test_steps_before_a_fork_are_those_of_its_parent(parent: RunDir) -> None:
    run, _ = create_fork(parent.home, parent, 6)
    run.write_progress("training", 8, 9)
    with pytest.raises(NotFoundError, match="begins at step 6") as caught:
        check_can_repeat(run, 5)
    assert caught.value.next_step == "name that run instead"
    (run.checkpoints / "step_00000006").rename(run.checkpoints / "step_00000008")
    with pytest.raises(NotFoundError, match="no checkpoint"):
        check_can_repeat(run, 7)


def test_a_replay_cannot_be_repeated(parent: RunDir) -> None:
    run = create_replay(parent.home, parent, 7)
    assert run.spec()["replay"] == {
        "run_id": parent.run_id, "step": 7, "overrides": [], "started_from": "step_00000006",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="kind replay"):
        check_can_repeat(run, 1)


def test_rollouts_after_a_step_are_forgotten_and_nothing_else(parent: RunDir) -> None:
    (parent.rollouts / "tokenizer.json").write_text("{}")
    parent.forget_rollouts_after(5)
    names = sorted(path.name for path in parent.rollouts.iterdir())
    assert names == [*(f"step-{step:08d}.parquet" for step in (2, 4, 5)), "tokenizer.json"]
