"""Writes docs/algorithms.md from the guide, the catalogue, the presets and docs/parity.json.

python scripts/parity_docs.py            write the page with the numbers of docs/parity.json
python scripts/parity_docs.py --measure  measure them first (torch and TRL, about 2 minutes): `make parity`
python scripts/parity_docs.py --check    exit 1 where the page is not what would be written; imports no torch
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Context
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from oxrl_core.algorithms.base import Algorithm, all_algorithms  # noqa: E402  (the path comes first)
from oxrl_core.config.presets import DPO, PRESETS, SFT, SGRPO, Preset, preset_for  # noqa: E402
from oxrl_core.config.schema import AlgorithmConfig  # noqa: E402
from scripts.algorithms_facts import IDENTITIES, LEFT_OUT  # noqa: E402
from scripts.config_docs import LEARNS_FROM, cell, plain, words  # noqa: E402
from scripts.pages import write_or_check  # noqa: E402

PAGE = ROOT / "docs" / "algorithms.md"
NUMBERS = ROOT / "docs" / "parity.json"
GUIDE = ROOT / "scripts" / "algorithms_guide.md"
MODULES = ("policy_gradient", "credit", "preference", "supervised", "contrib_a", "contrib_b")

LIMIT = 1e-6  # a larger error is a wrong loss
SMALLEST = 1e-8  # below, the numbers of two machines differ

SWITCHES = (
    *("advantage", "advantage_scale", "whiten", "discount", "gae_lambda", "aggregation"),
    *("kl_coef", "kl_estimator", "kl_place", "entropy_coef"),
    *("mismatch", "mismatch_level", "mismatch_low", "mismatch_high"),
    *("critic", "critic_lr", "value_coef", "value_clip", "reference", "precompute_reference", "teacher"),
)
RATIO_KEYS = ("ratio", "clip_low", "clip_high", "dual_clip", "ratio_cap", "ratio_floor")
SIGNALS = {
    "Tokens": ("(B, T)", "log-probs of completion tokens", "rows with a completion"),
    "Distributions": ("(N,)", "logits of student and teacher at N tokens", "rows with a completion, a teacher"),
    "Pairs": ("(B,)", "log-probs of chosen and rejected completions", "rows with pairs"),
    "ReferencedPairs": ("(B,)", "the same, and their sums under the reference", "rows with pairs, a reference"),
    "StepPairs": ("(B,)", "the same, and the log-ratios of the whole step", "rows with pairs, a reference"),
    "ScoredPairs": ("(B,)", "scores of chosen and rejected completions", "rows with pairs, a score head"),
    "Labeled": ("(B,)", "log-ratios and labels, of the whole step too", "labeled rows, a reference"),
    "Rollouts": ("(B, T)", "log-probs now and when drawn, advantages", "prompts, a sampler, a reward"),
}


def page() -> str:
    """The whole page as Markdown."""
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))
    own = {name: one for name, one in all_algorithms().items() if not is_contributed(one)}
    contributed = {name: one for name, one in all_algorithms().items() if is_contributed(one)}
    parts = {
        "switches": switches(),
        "ratios": ratios(),
        "signals": table(
            ("First argument", "Returns", "Sees", "Needs"),
            [(f"`{name}`", returns, sees, needs) for name, (returns, sees, needs) in SIGNALS.items()],
        ),
        "trl": numbers["trl"],
        "limit": shown(LIMIT),
        "parity": parity(numbers["rows"]),
        "identities": table(
            ("Algorithm", "What holds", "Test"),
            [(f"`{name}`", sentence, f"`{test}`") for name, (sentence, test) in IDENTITIES.items()],
        ),
        "algorithms": "\n".join(section(one) for one in own.values()),
        "contributed": table(
            ("Algorithm", "Loss", "Parameters", "Paper"),
            [(f"`{name}`", one.summary, params(one), one.paper) for name, one in contributed.items()],
        ),
        "left_out": table(("What", "Why"), LEFT_OUT.items()),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]].rstrip("\n"), GUIDE.read_text(encoding="utf-8"))


def is_contributed(algorithm: Algorithm) -> bool:
    """Whether it stands in the folder of contributed losses."""
    return ".contrib." in algorithm.loss.__module__


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell(text) for text in line)} |\n" for line in lines).replace(" --- ", "---")


def switches() -> str:
    """The keys that hold for every loss, as the schema documents them, and which presets set them."""
    rows: list[tuple[str, str, str, str]] = []
    for name in SWITCHES:
        info = AlgorithmConfig.model_fields[name]
        chosen = {preset.name: preset.values().get(f"algorithm.{name}", info.default) for preset in PRESETS.values()}
        setters = [preset for preset, value in chosen.items() if value != info.default]
        kind = f"{words(info.annotation, info.metadata)}; `{plain(info.default)}`"
        rows.append((f"`{name}`", kind, info.description or "", ", ".join(setters)))
    return table(("Key", "Values; default", "Meaning", "Set by the presets"), rows)


def ratios() -> str:
    """Which policy gradient has which ratio and clip."""
    rows: list[tuple[str, ...]] = []
    for name, algorithm in all_algorithms().items():
        if algorithm.signals == "Rollouts":
            found = [f"`{plain(algorithm.params[key])}`" if key in algorithm.params else "" for key in RATIO_KEYS]
            rows.append((f"`{name}`", *found))
    return table(("Algorithm", *(f"`{key}`" for key in RATIO_KEYS)), rows)


def params(algorithm: Algorithm) -> str:
    """The parameters of the loss with their defaults."""
    return ", ".join(f"`{name}` = {plain(value)}" for name, value in algorithm.params.items()) or "none"


def section(algorithm: Algorithm) -> str:
    """What one algorithm is, takes and sets."""
    said = inspect.getdoc(algorithm.loss) or ""
    rest = said.partition("\n\n")[2] if said.startswith(algorithm.summary[:20]) else ""
    text = f"### `{algorithm.name}`\n\n{algorithm.summary}\n\n"
    text += f"{unwrapped(rest)}\n\n" if rest else ""
    text += f"- learns from: {LEARNS_FROM[algorithm.lesson]}\n- paper: {algorithm.paper}\n"
    text += f"- parameters: {params(algorithm)}\n"
    preset = PRESETS.get(algorithm.name)
    if preset is None:
        return text + f"- preset: that of [`{kin(algorithm).name}`](#{kin(algorithm).name})\n"
    base = base_of(preset)
    own = [one for one in preset.choices if base is None or one not in base.choices]
    rows = [(f"`{one.key}`", f"`{plain(one.value)}`", one.reason) for one in own]
    if base is not None:
        text += f"- preset: that of [`{base.name}`](#{base.name}), but:\n"
    return f"{text}\n{table(('Key', 'Value', 'Why'), rows)}"


def base_of(preset: Preset) -> Preset | None:
    """The preset that another one is made of, if it keeps most of it."""
    for base in (SGRPO, SFT, DPO):
        shared = [one for one in preset.choices if one in base.choices]
        if preset is not base and 2 * len(shared) > len(base.choices):
            return base
    return None


def kin(algorithm: Algorithm) -> Preset:
    """The preset that an algorithm without one of its own takes."""
    return preset_for(algorithm, {}, lora=False)


def unwrapped(text: str) -> str:
    """Paragraphs of a docstring, each on one line: in Markdown a line break of the source means nothing."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def parity(rows: Sequence[dict[str, Any]]) -> str:
    """The table of measured errors."""
    return table(
        ("Algorithm", "Oracle", "Cases", "Value", "Gradient"),
        [
            (
                f"`{row['algorithm']}`",
                row["oracle"],
                str(row["cases"]),
                shown(row["value_error"]),
                shown(row["gradient_error"]),
            )
            for row in rows
        ],
    )


def shown(error: float) -> str:
    """An error as the table has it: 2e-7, and 0 for what cannot be told from it."""
    return f"< {SMALLEST:.0e}".replace("e-0", "e-") if error <= SMALLEST else f"{error:.0e}".replace("e-0", "e-")


def rounded_up(error: float) -> float:
    """The error with one significant digit, never a smaller one: little differences of machines do not show."""
    # From the shortest text of the number: in binary 1e-8 itself is a little more than 1e-8, and would become 2e-8.
    return float(Context(prec=1, rounding=ROUND_CEILING).create_decimal(repr(max(error, SMALLEST))))


def measure() -> None:
    """Writes docs/parity.json; leaves it alone and says why where an error is too large."""
    import torch
    import trl

    torch.set_num_threads(1)
    found = [row for module in MODULES for row in import_module(f"scripts.parity.{module}").rows()]
    wrong = [row for row in found if not max(row.value_error, row.gradient_error) <= LIMIT]
    if wrong:
        raise SystemExit("\n".join(["these stand too far from their oracle; nothing was written:", *map(str, wrong)]))
    rows = [
        {**vars(row), "value_error": rounded_up(row.value_error), "gradient_error": rounded_up(row.gradient_error)}
        for row in found
    ]
    lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
    NUMBERS.write_text(f'{{\n  "trl": "{trl.__version__}",\n  "rows": [\n{lines}\n  ]\n}}\n', encoding="utf-8")
    print(f"wrote {NUMBERS.relative_to(ROOT)}: {len(rows)} comparisons, {sum(row['cases'] for row in rows)} cases")


def main(arguments: list[str]) -> int:
    """0 where the page is written or current, 1 where --check finds it stale."""
    if "--measure" in arguments:
        measure()
    text = page()
    return write_or_check(PAGE, text, check="--check" in arguments, command="python scripts/parity_docs.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
