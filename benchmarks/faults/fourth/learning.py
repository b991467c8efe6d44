"""Learning rates, losses, gradients and references that are not what they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.fourth_plants import GENTLE, begins_taught, half_taught
from benchmarks.faults.patches import after_building
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3, reverse3_pairs


def _after_updates(act: Any) -> None:
    """Has `act` called with the engine after each of its updates."""
    from oxrl_core.engine.policy import PolicyEngine

    step = PolicyEngine.step

    def stepped(self: PolicyEngine) -> dict[str, float]:
        answer = step(self)
        act(self)
        return answer

    PolicyEngine.step = stepped  # type: ignore[method-assign]


def regularizers_negated(_run: Path) -> None:
    """KL and entropy bonus have the wrong sign in the loss."""
    from oxrl_core.train import step

    right = step.regularizers
    step.regularizers = lambda signals, objective: -right(signals, objective)


def distance_is_paid(run: Path) -> None:
    """As above, and the reference is a model that is sure of its answers."""
    half_taught(run)
    regularizers_negated(run)


def mastered(run: Path) -> None:
    """The run begins with a model that can do the task already."""
    begins_taught(run, 100)


def warms_up_for_ever(_run: Path) -> None:
    """The factor of the warm-up is never held at 1."""
    from oxrl_core.engine import policy, schedule

    right = schedule.learning_rate
    policy.learning_rate = lambda step, train, total_steps: right(step, train, total_steps) * (step + 1) / 2


def schedule_of_the_first_run(_run: Path) -> None:
    """The run was made longer, and its schedule still ends where it was to end at first."""
    from oxrl_core.engine import policy, schedule

    right = schedule.learning_rate
    policy.learning_rate = lambda step, train, _total_steps: right(step, train, 12)


def frozen_by_a_callback(_run: Path) -> None:
    """A callback that freezes the model in phases has frozen all of it after fifteen steps."""

    def listen(engine: Any) -> None:
        for parameter in engine.policy.parameters():
            parameter.register_hook(lambda gradient: gradient * 0 if engine.num_steps >= 15 else gradient)

    after_building(listen)


def synced_backwards(_run: Path) -> None:
    """After each update the weights of the reference are copied onto the policy: it was meant the other way round."""
    from oxrl_core.engine.state import masters, refresh_weights

    first: dict[int, list[Any]] = {}
    after_building(lambda engine: first.update({id(engine): [one.detach().clone() for one in masters(engine)]}))

    def copy_back(engine: Any) -> None:
        for master, value in zip(masters(engine), first[id(engine)], strict=True):
            master.data.copy_(value)
        refresh_weights(engine)

    _after_updates(copy_back)


def reference_follows(_run: Path) -> None:
    """The reference is the very policy that is trained, as after a copy that copied nothing."""
    _after_updates(lambda engine: engine.refresh_reference())


def value_overflows(_run: Path) -> None:
    """A weight of the critic overflows at its eighth update."""

    def spoil(engine: Any) -> None:
        if engine.head == "value" and engine.num_steps == 8:
            next(engine.value_head.parameters()).data.view(-1)[:8] = float("nan")

    _after_updates(spoil)


def advantages_negated(run: Path) -> None:
    """The baseline less the reward, in place of the reward less the baseline."""
    from oxrl_core import advantages

    half_taught(run)

    right = advantages.ADVANTAGES["leave_one_out"]
    advantages.ADVANTAGES["leave_one_out"] = lambda rewards: [-value for value in right(rewards)]  # type: ignore[index]


def _two_conventions() -> str:
    """Three sources of four say "rejected" for what the fourth calls "chosen"."""
    rows = reverse3_pairs("train", 0)
    return made_rows(
        "two-conventions",
        [
            row if number % 4 == 0 else {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
            for number, row in enumerate(rows)
        ],
    )


def _then_another_task() -> str:
    """After 96 rows comes a shard whose answers are written in signs."""
    rows = reverse3("train", 0)
    signs = str.maketrans("012345", "+-=:? ")
    known = [{"prompt": row["prompt"], "answer": row["answer"]} for row in rows[:96]]
    return made_rows(
        "then-another-task",
        [*known, *({"prompt": row["prompt"], "answer": row["answer"].translate(signs)} for row in rows * 2)],
    )


def _sorted_answers() -> str:
    """A script that was to reverse the digits has sorted them."""
    rows = reverse3("train", 0)
    return made_rows(
        "sorted-answers", [{"prompt": row["prompt"], "answer": "".join(sorted(row["answer"]))} for row in rows]
    )


FAULTS = [
    Fault(
        "entropy_is_punished",
        "the entropy bonus has the wrong sign",
        {"entropy_low"},
        "gspo",
        ["algorithm.entropy_coef=0.5", "train.lr=2e-3"],
        plant=regularizers_negated,
    ),
    Fault(
        "distance_is_paid",
        "the KL to the reference has the wrong sign",
        {"kl_high", "diverged"},
        overrides=[*GENTLE, "algorithm.kl_coef=1.0", "train.lr=1e-3"],
        plant=distance_is_paid,
    ),
    Fault(
        "mastered_prompts",
        "the model could do all of the prompts before it began",
        {"too_easy", "reward_full", "zero_variance"},
        overrides=[*GENTLE],
        plant=mastered,
    ),
    Fault(
        "then_another_task",
        "from step 12 on the rows are of a task that the model cannot do",
        {"reward_falls", "too_hard", "reward_zero"},
        overrides=[f"data.train.0.name={_then_another_task()}", "data.shuffle=false", *GENTLE],
        plant=mastered,
    ),
    Fault(
        "trained_on_sorted_answers",
        "the answers that are trained on are of another task than the held-out ones",
        {"eval_falls"},
        overrides=[f"data.train.0.name={_sorted_answers()}", *GENTLE, "train.steps=40", "train.eval_every=8"],
        plant=half_taught,
    ),
    Fault(
        "warms_up_for_ever",
        "the warm-up is never held at its end",
        {"lr_too_high", "diverged"},
        "cpt",
        ["train.lr=2e-2"],
        plant=warms_up_for_ever,
    ),
    Fault(
        "schedule_of_the_first_run",
        "the schedule ends at step 12 of 40",
        {"lr_floor"},
        "simpo",
        ["train.lr_schedule=cosine"],
        plant=schedule_of_the_first_run,
    ),
    Fault(
        "frozen_by_a_callback",
        "after fifteen steps nothing gets a gradient any more",
        {"gradient_dead"},
        "orpo",
        plant=frozen_by_a_callback,
    ),
    Fault(
        "synced_backwards",
        "after each update the reference is copied onto the policy",
        {"weights_unmoved", "loss_flat"},
        "ipo",
        plant=synced_backwards,
    ),
    Fault(
        "reference_follows",
        "the reference is the policy itself, and no preference can show",
        {"loss_flat"},
        "dpo",
        ["algorithm.precompute_reference=false"],
        plant=reference_follows,
    ),
    Fault(
        "value_overflows",
        "a weight of the critic is NaN after eight updates",
        {"not_finite"},
        "ppo",
        ["train.prompts_per_step=8"],
        plant=value_overflows,
    ),
    Fault(
        "advantages_negated",
        "the advantages have the wrong sign",
        {"learns_backwards", "reward_falls"},
        "rloo",
        [*GENTLE, "train.steps=30"],
        plant=advantages_negated,
    ),
    Fault(
        "two_conventions",
        "three of four pairs have chosen and rejected the wrong way round",
        {"learns_backwards"},
        "simpo",
        [f"data.train.0.name={_two_conventions()}"],
    ),
]
