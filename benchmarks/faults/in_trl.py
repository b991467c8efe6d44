"""Faults of the suite planted into TRL's own trainers: what a person sees there.

    python -m benchmarks.faults.in_trl lr_100x                 one fault; it prints what TRL said and logged
    python -m benchmarks.faults.in_trl healthy                 the same run without a fault

The model and the rows are those of the suite: miniature:chars, reverse3. The table is in README.md.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

STEPS = 24
SHOWN = ("loss", "reward", "entropy", "grad_norm", "frac_reward_zero_std", "clipped_ratio", "accuracies", "eval_loss")


def positions(completion_ids: list[list[int]], answer: list[str], **_columns: Any) -> list[float]:
    """Share of the positions (three digits and EOS) that are right: the suite's healthy reward."""
    wanted = [[*_TOKENS(text)["input_ids"], _TOKENS.eos_token_id] for text in answer]
    return [
        sum(a == b for a, b in zip(given, right, strict=False)) / 4
        for given, right in zip(completion_ids, wanted, strict=True)
    ]


def always_zero(completion_ids: list[list[int]], **_columns: Any) -> list[float]:
    """An extractor that never finds an answer."""
    return [0.0] * len(completion_ids)


def nan_for_some(completion_ids: list[list[int]], answer: list[str], **columns: Any) -> list[float]:
    """NaN wherever the completion has no three."""
    three = _TOKENS("3")["input_ids"][0]
    values = positions(completion_ids, answer, **columns)
    return [value if three in ids else float("nan") for value, ids in zip(values, completion_ids, strict=True)]


GRPO: dict[str, tuple[dict[str, Any], Any]] = {
    "healthy": ({}, positions),
    "lr_100x": ({"learning_rate": 0.1}, positions),
    "reward_always_zero": ({}, always_zero),
    "temperature_tiny": ({"temperature": 0.02}, positions),
    "reward_nan_for_some": ({}, nan_for_some),
}


def grpo(name: str, folder: Path) -> Any:
    """TRL's GRPO on reverse3, with the values of the suite's sgrpo recipe."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from oxrl_core.datasets.tiny import reverse3

    changed, reward = GRPO[name]
    values = {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": 64, "num_generations": 8,
        "max_completion_length": 4, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "logging_steps": 1,
        "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "beta": 0.0,
    }  # fmt: skip
    rows = Dataset.from_list([{"prompt": row["prompt"], "answer": row["answer"]} for row in reverse3("train", 0)])
    return GRPOTrainer(
        model=str(folder / "model"), reward_funcs=reward, args=GRPOConfig(**(values | changed)), train_dataset=rows,
        processing_class=_TOKENS,
    )  # fmt: skip


def dpo(name: str, folder: Path) -> Any:
    """TRL's DPO on the pairs of reverse3; the held-out pairs are right."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from oxrl_core.datasets.tiny import reverse3_pairs

    rows = Dataset.from_list(list(reverse3_pairs("train", 0)))
    if name == "pairs_swapped":
        rows = rows.rename_columns({"chosen": "rejected", "rejected": "chosen"})
    arguments = DPOConfig(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=32, learning_rate=1e-3, logging_steps=1,
        lr_scheduler_type="constant", use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
        eval_strategy="steps", eval_steps=12, max_length=16,
    )  # fmt: skip
    return DPOTrainer(
        model=str(folder / "model"), args=arguments, train_dataset=rows, processing_class=_TOKENS,
        eval_dataset=Dataset.from_list(list(reverse3_pairs("eval", 0))),
    )  # fmt: skip


def main(name: str) -> int:
    """Plants one fault, trains, and prints what there was to see."""
    from transformers import AutoTokenizer
    from transformers.trainer_callback import PrinterCallback

    from oxrl_core.models.miniature import make_miniature

    global _TOKENS
    folder = Path(tempfile.mkdtemp(prefix="faults-trl-"))
    make_miniature("chars", folder / "model", 0)
    _TOKENS = AutoTokenizer.from_pretrained(folder / "model")
    ended = "finished"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = (grpo if name in GRPO else dpo)(name, folder)
        trainer.remove_callback(PrinterCallback)  # every step's row is in log_history
        try:
            trainer.train()
        except Exception as error:  # how TRL ends is what is asked
            ended = f"{type(error).__name__}: {str(error)[:300]}"
    print(f"== {name}: {ended}")
    for text in dict.fromkeys(str(one.message).splitlines()[0][:160] for one in caught):
        print(f"   warning: {text}")
    rows = trainer.state.log_history
    for key in dict.fromkeys(key for row in rows for key in row if any(part in key for part in SHOWN)):
        values = [row[key] for row in rows if key in row]
        print(f"   {key}: {' '.join(f'{value:.3g}' for value in values[:: max(1, len(values) // 6)])}")
    return 0


_TOKENS: Any = None

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main(sys.argv[1]))
