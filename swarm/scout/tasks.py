"""A first task for a model: what it can be trained on with what oxRL ships, and why that."""

from __future__ import annotations

from dataclasses import dataclass

from oxrl_core.errors import UserError
from oxrl_core.suggest import did_you_mean
from swarm.scout.facts import Facts
from swarm.scout.views import Proposal


@dataclass(frozen=True)
class Task:
    """Datasets and reward of one kind of work."""

    name: str
    judged: str  # dataset of prompts with answers
    reward: str
    shown: str  # dataset with completions
    pairs: str  # dataset of preferences
    why: str
    holds_out: str = ""  # split of `judged` that is held out
    system_prompt: str = ""


TASKS = {
    task.name: task
    for task in (
        Task("tiny", "reverse3", "positions", "reverse3", "reverse3-pairs", "a miniature learns it in seconds", "eval"),
        Task(
            "math", "gsm8k", "gsm8k", "gsm8k", "ultrafeedback", "every answer can be checked by arithmetic", "test",
            "Think step by step. Write the final number after ####.",
        ),
        Task("code", "mbpp", "code", "mbpp", "ultrafeedback", "every answer can be run against tests", "validation"),
        Task("image", "shapes", "multimodal", "shapes", "shapes-pairs", "pictures that are drawn on the spot", "eval"),
        Task("audio", "tones", "multimodal", "tones", "tones-pairs", "sounds that are made on the spot", "eval"),
    )
}  # fmt: skip
BY_LESSON = {"pairs": "pairs", "examples": "shown", "documents": "shown"}


def task_of(facts: Facts, asked: str = "") -> Task:
    """The task that was asked for, else the first that suits the model."""
    if asked:
        if asked not in TASKS:
            step = f"take one of: {', '.join(TASKS)}"
            raise UserError(f"there is no task {asked!r}.{did_you_mean(asked, TASKS)}", "task", step)
        return TASKS[asked]
    name = facts.model.lower()
    if "image" in facts.modality:
        return TASKS["image"]
    if "audio" in facts.modality:
        return TASKS["audio"]
    if facts.is_miniature:
        return TASKS["tiny"]
    return TASKS["code" if "coder" in name or "code" in facts.repository.tags else "math"]


def propose(facts: Facts) -> list[Proposal]:
    """Tasks for the model, the best first."""
    first = task_of(facts)
    others = [] if facts.is_miniature or "audio" in facts.modality else [TASKS["math"]]
    chosen = list({task.name: task for task in (first, *others)}.values())
    found = [Proposal(task=task.name, dataset=task.judged, reward=task.reward, why=task.why) for task in chosen]
    found.append(Proposal(task="preferences", dataset=first.pairs, why="pairs of answers, for dpo and its like"))
    return found
