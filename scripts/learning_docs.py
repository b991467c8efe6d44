"""Writes docs/learning.md from reports of `oxrl bench learn`.

    oxrl bench learn --json > learned.json
    oxrl bench learn --flip --seeds 1 --json > flipped.json
    python scripts/learning_docs.py learned.json --flipped flipped.json

A measured page: it says when and on what it was measured, and no check compares it with a new measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.pages import write_or_check  # noqa: E402  (the path comes first)

PAGE = ROOT / "docs" / "learning.md"
HEAD = """# Every algorithm learns

Made by `python scripts/learning_docs.py` from measured values; do not edit.

Each algorithm trains with its recipe (`registry/examples/<name>.yaml`): a model of 0.4M parameters that starts from
random weights, on tasks of a few digits. What the algorithm promises is measured on held-out rows before and after, on
the exported model and by plain transformers: the trainer, its loss and its own evaluation have no say. It has learned
where the mean improvement over the seeds lies more than 3 standard errors above zero. Then the sign of the loss is
turned, and nothing may improve.

{when}, {machine}.

```bash
{commands}
```
"""
MEASURES = """
| measure | what it is |
| --- | --- |
| true reward | share of right positions (three digits and EOS) in greedy answers to held-out prompts, whatever reward the run was given |
| model score | the reward model's score of the same answers |
| nats/token | negative log-likelihood of held-out completions or texts |
| teacher KL | KL(teacher, model) at the tokens of held-out completions |
| preference | log-likelihood of the preferred held-out completions minus that of the others, in nats |
| right pairs | share of held-out pairs whose preferred completion gets the higher score; before: a random score head |

"""  # noqa: E501 - rows of a table
LEARNED = """## As they are

"error" is the standard error of the mean improvement, "in errors" the improvement divided by it. The time is of one
run, the mean over the seeds: seconds of the processor, about 10 of which import torch and transformers (unless another
run was made first in the same process), and on the clock of this machine, which had other work.

| algorithm | measure | before | after | error | in errors | steps | processor | clock |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
NEEDS = """
`kd` has the `sft` run of the same seed as its teacher; `rft` and `rlaif` start from 15 steps of that recipe, `rlhf`
from 10, and its reward is the `rm` run. `rlaif` asks a judge behind an OpenAI-compatible address on loopback, which
compares two answers in both orders and prefers the one with more right positions.
"""
FLIPPED = """
## With the sign of the loss turned

Regularizers (the entropy bonus, a KL to the reference) and a critic's own loss keep their sign.

| algorithm | measure | before | after | improved |
| --- | --- | ---: | ---: | :---: |
"""


def shown(value: float | None) -> str:
    """A value as it stands in a table."""
    return "-" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def learned_rows(report: dict[str, Any]) -> list[str]:
    """The table of a report whose losses are as they are."""
    return [
        f"| {row['algorithm']} | {row['measure']} | {shown(row['before'])} | {shown(row['after'])} | "
        f"{shown(row['standard_error'])} | {shown(row['standard_errors'])}"
        f"{'' if row['learned'] else ' (not learned)'} | "
        f"{row['steps']} | {row['cpu_seconds']:.0f} s | {row['seconds']:.0f} s |"
        for row in report["rows"]
    ]


def flipped_rows(report: dict[str, Any]) -> list[str]:
    """The table of a report whose losses were turned round."""
    return [
        f"| {row['algorithm']} | {row['measure']} | {shown(row['before'])} | {shown(row['after'])} | "
        f"{'yes' if row['learned'] else 'no'}{' (' + row['note'] + ')' if row['note'] else ''} |"
        for row in report["rows"]
    ]


def page(learned: dict[str, Any], flipped: dict[str, Any] | None) -> str:
    """The whole page."""
    seeds = max(row["seeds"] for row in learned["rows"])
    commands = [f"oxrl bench learn --seeds {seeds}    # {learned['seconds'] / 60:.0f} minutes"]
    if flipped:
        most = max(row["seeds"] for row in flipped["rows"])
        commands.append(f"oxrl bench learn --flip --seeds {most}    # {flipped['seconds'] / 60:.0f} minutes")
    text = HEAD.format(
        when=f"Measured on {datetime.now(UTC):%d %B %Y}",
        machine=f"on {os.cpu_count()} cores ({platform.machine()}) without a GPU, Python {platform.python_version()}",
        commands="\n".join(commands),
    )
    text += MEASURES + LEARNED + "\n".join(learned_rows(learned)) + "\n" + NEEDS
    if flipped:
        text += FLIPPED + "\n".join(flipped_rows(flipped)) + "\n"
    return text


def joined(paths: list[Path]) -> dict[str, Any] | None:
    """The reports of several calls as one, in their order; None without any."""
    reports: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    if not reports:
        return None
    rows = [row for report in reports for row in report["rows"]]
    return {"rows": rows, "seconds": sum(report["seconds"] for report in reports)}


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learned", type=Path, nargs="+", help="what `oxrl bench learn --json` printed")
    parser.add_argument("--flipped", type=Path, nargs="*", default=[], help="and with --flip")
    arguments = parser.parse_args()
    learned = joined(arguments.learned)
    assert learned is not None
    write_or_check(
        PAGE, page(learned, joined(arguments.flipped)), check=False, command="python scripts/learning_docs.py"
    )


if __name__ == "__main__":
    main()
