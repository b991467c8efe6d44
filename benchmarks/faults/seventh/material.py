"""Rows that are not what their file's name promises."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.plants import made_file, made_rows
from benchmarks.faults.seventh_plants import HALF_TAUGHT, half_taught
from oxrl_core.datasets.tiny import reverse3, reverse3_pairs

PLANTS = HERE / "seventh_plants.py"
LOGIN_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><title>Sign in</title></head>
<body>
<form action="/login" method="post">
<input name="username"><input name="password" type="password">
</form>
</body>
</html>
"""


def _with_spaces() -> str:
    rows = reverse3("train", 0)
    return made_rows("seventh-spaces", [{"prompt": row["prompt"], "answer": f"{row['answer']} "} for row in rows])


def _pairs_of_trained_prompts() -> str:
    rows = reverse3_pairs("train", 0)[:36]
    others = [row["rejected"] for row in rows]
    return made_rows(
        "seventh-same-prompts",
        [row | {"rejected": other} for row, other in zip(rows, [*others[1:], others[0]], strict=True)],
    )


def first_rows_again(_run: Path) -> None:
    """The loader of the data is made anew at every step, and begins at its beginning."""
    from oxrl_core.data.stream import RenderedStream

    take = RenderedStream.take

    def taken(self: RenderedStream[object], num_items: int) -> list[object]:
        self.rows.progress.row_cursor = self.rows.progress.item_cursor = 0
        return take(self, num_items)

    RenderedStream.take = taken  # type: ignore[method-assign]


FAULTS = [
    Fault(  # pain 15: a download behind a proxy
        "rows_are_a_login_page",
        "in place of the rows the file holds the login page of a proxy",
        {"wrong_request", "rows_lost"},
        "sgrpo",
        [f"data.train.0.name={made_file('seventh-login', LOGIN_PAGE)}"],
    ),
    Fault(  # pain 13: gold answers that the verifier refuses
        "references_end_with_a_space",
        "the references end with a space, and the verifier strips completions alone",
        {"reward_zero", "verifier_rejects_references"},
        "sgrpo",
        [
            f"model.path={HALF_TAUGHT}",
            f"data.train.0.name={_with_spaces()}",
            f"reward.name={own('compares_as_it_stands', PLANTS)}",
            "algorithm.entropy_coef=0",
            "train.lr=1e-4",
        ],
        plant=half_taught,
    ),
    Fault(  # pain 16: held-out preferences over the prompts of the training
        "held_out_pairs_of_trained_prompts",
        "held-out pairs have the prompts and the chosen completions of training pairs, and other rejected ones",
        {"train_eval_leak"},
        "dpo",
        [f"data.eval.0.name={_pairs_of_trained_prompts()}", "data.eval.0.split=train"],
    ),
    Fault(  # llm.c#662, GM-NAS#4: a loader that is made anew at every step
        "first_batch_again",
        "every step learns from the same first thirty-two rows",
        {"overfitting", "duplicate_prompts"},
        "sft",
        ["train.steps=100"],
        plant=first_rows_again,
    ),
]
