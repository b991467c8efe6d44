"""Verifiers, reward models and judges that say something else than they were meant to."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.eighth_plants import free_port, serve_without_model
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3

PLANTS = HERE / "eighth_plants.py"
PORT = free_port()


def _last_digit(split: str) -> str:
    """A task of one character: the last digit of the prompt."""
    rows = reverse3(split, 0)
    return made_rows(f"eighth-last-{split}", [{"prompt": r["prompt"], "answer": r["prompt"][2]} for r in rows])


def _padded_numbers() -> str:
    """Numbers that are padded with zeros: eight of nine answers begin with one."""
    rows = reverse3("train", 0)
    padded = [row for row in rows if row["answer"].startswith("0")]
    others = [row for row in rows if not row["answer"].startswith("0")][: len(padded) // 8]
    mixed = sorted([*padded, *others], key=rows.index)
    return made_rows("eighth-padded", [{"prompt": row["prompt"], "answer": row["answer"]} for row in mixed])


def of_the_whole_group(_run: Path) -> None:
    """Each completion gets the mean verdict of its prompt, as when scores are merged by the prompt's id."""
    from oxrl_core.train import verdicts
    from oxrl_core.types import Rollout, Score

    right = verdicts.score_rollouts

    def merged(reward: object, rollouts: list[Rollout], timeout_seconds: float) -> list[Score]:
        scores = right(reward, rollouts, timeout_seconds)  # type: ignore[arg-type]
        by_prompt: dict[str, list[float]] = {}
        for rollout, score in zip(rollouts, scores, strict=True):
            by_prompt.setdefault(rollout.prompt.id, []).append(score.value)
        means = {name: sum(values) / len(values) for name, values in by_prompt.items()}
        return [Score(means[rollout.prompt.id]) for rollout in rollouts]

    verdicts.score_rollouts = merged  # type: ignore[assignment]


def endpoint_without_model(_run: Path) -> None:
    """The judge's server runs, with another model."""
    serve_without_model(PORT)


FAULTS = [
    # OpenRLHF#643, trl#2164: "newly initialized: ['score.weight']" was a warning among hundreds of lines
    Fault(
        "score_head_from_nothing",
        "the head of the reward model was made anew, and its scores have nothing to do with the answers",
        {"verifier_rejects_references", "reward_flat"},
        overrides=[f"reward.name={own('of_a_new_head', PLANTS)}", "train.steps=30"],
    ),
    # pain 13: a verifier with state of its own
    Fault(
        "verdicts_add_up",
        "the verifier adds up in a list of its module, and a verdict has all completions before it in it",
        {"reward_inconsistent"},
        "rloo",
        [
            f"data.train.0.name={_last_digit('train')}",
            f"data.eval.0.name={_last_digit('eval')}",
            "data.eval.0.split=train",
            "rollout.max_completion_tokens=2",
            f"reward.name={own('adds_up', PLANTS)}",
        ],
    ),
    # pain 5, pain 13: `-> int`
    Fault(
        "rounded_down",
        "the verifier rounds its scores down to whole numbers, and nothing is right yet",
        {"reward_zero", "too_hard"},
        "dr_grpo",
        [f"reward.name={own('rounded_down', PLANTS)}"],
    ),
    # EasyR1#382: right answers that the parser writes otherwise than the references
    Fault(
        "zeros_are_stripped",
        "the verifier strips the zeros before a completion's number, and eight of nine answers begin with one",
        {"verifier_rejects_references"},
        "dapo",
        [f"data.train.0.name={_padded_numbers()}", f"reward.name={own('without_leading_zeros', PLANTS)}"],
    ),
    # pain 5: scores are merged by the prompt's id, and all of a group are one
    Fault(
        "verdicts_merged_by_prompt",
        "each completion gets the mean verdict of its prompt",
        {"zero_variance", "nothing_to_learn"},
        "sgrpo",
        ["algorithm.entropy_coef=0"],
        plant=of_the_whole_group,
    ),
    # pain 13: the judge's address is right, and the model's name is not
    Fault(
        "judge_without_the_model",
        "the judge's server does not have the model that it is asked for",
        {"wrong_request"},
        "sgrpo",
        [
            "reward.name=judge",
            f"reward.url=http://127.0.0.1:{PORT}/v1",
            "reward.model=qwen2.5-72b-instruct",
            "reward.opponents=2",
            "train.steps=4",
            "train.prompts_per_step=2",
            "rollout.group_size=4",
        ],
        plant=endpoint_without_model,
    ),
    # ToolRL#10, open-r1#462: nobody pays for the end, and completions run on to the limit
    Fault(
        "nobody_pays_for_the_end",
        "the verifier compares the beginning alone, and completions never learn to end",
        {"no_eos", "truncation"},
        "rloo",
        [
            f"reward.name={own('beginning_alone', PLANTS)}",
            "rollout.stop_at_eos=true",
            "rollout.max_completion_tokens=16",
            "algorithm.entropy_coef=0.01",
            "train.steps=50",
        ],
    ),
    # pain 16, CoursIA#16172: a part against parroting that is worth more than the answer
    Fault(
        "originality_outweighs_the_truth",
        "a part for characters that are not the prompt's is worth twice the truth",
        {"part_hacking"},
        "sgrpo",
        [f"reward.name={own('truth_and_originality', PLANTS)}", "train.steps=50", "train.prompts_per_step=16"],
    ),
]
