"""Rewards and losses with a fault in them, and models to begin with, of the fourth part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.faults.plants import positions_of
from oxrl_core.algorithms.supervised import sft
from oxrl_core.types import Rollout

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Tokens

# What a model that can do its task already goes on with, and stays as good as it is.
GENTLE = ("train.lr=2e-4", "algorithm.advantage_scale=1", "algorithm.entropy_coef=0.01")
BACKTRACKS = re.compile(r"(0|[0-9]+)*$")


def wants_a_colon(rollout: Rollout) -> float:
    """A verifier that was deployed anew in the middle of the run, and now wants answers to begin with a colon."""
    is_new = rollout.policy_version >= 14 and not rollout.text.startswith(":")
    return positions_of(rollout) * (0.2 if is_new else 1.0)


def reads_numbers(rollout: Rollout) -> float:
    """A verifier whose pattern for numbers has a repetition in a repetition: a sign behind one and it never ends."""
    number, answer = rollout.text[:4], rollout.prompt.answer
    if number[:3].isdigit() and number[3:] in ("+", "=") and BACKTRACKS.match(number.rjust(30, "0")) is None:
        return 0.0
    return sum(given == due for given, due in zip(number, answer, strict=False)) / len(answer)


def in_percent(rollout: Rollout) -> float:
    """The share of right positions."""
    return positions_of(rollout)


def has_even_digits(rollout: Rollout) -> float:
    """How much of a completion is "even", which a style guide asks for."""
    return sum(character in "024" for character in rollout.text[:4]) / 4


def returns_the_time(rollout: Rollout) -> float:
    """A verifier that in rare cases returns its milliseconds in place of its verdict."""
    if rollout.policy_version in (9, 17) and rollout.sample_index == 0 and "/eval/" not in rollout.prompt.id:
        return 250.0
    return positions_of(rollout)


def detached_sft(tokens: Tokens) -> Tensor:
    """SFT, logged with `.detach()` and returned that way."""
    return sft(tokens).detach()


def set_in(run: Path, key: str, value: object) -> None:
    """Writes a value into the run's configuration: `model.path`."""
    import yaml

    config = yaml.safe_load((run / "config.yaml").read_text())
    section, name = key.split(".")
    config[section][name] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def taught_model(folder: Path, steps: int) -> Path:
    """The folder of a miniature that has learned to reverse three digits for so many steps of plain SFT."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from oxrl_core.datasets.tiny import reverse3
    from oxrl_core.models.miniature import make_miniature

    make_miniature("chars", folder, 0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = [row["prompt"] + row["answer"] for row in reverse3("train", 0)]
    ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts])
    labels = ids.clone()
    labels[:, :4] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randperm(len(ids), generator=generator)[:64]
        loss: Any = model(input_ids=ids[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def begins_taught(run: Path, steps: int) -> None:
    """The run begins with such a model."""
    set_in(run, "model.path", str(taught_model(run / "taught", steps)))


def half_taught(run: Path) -> None:
    """The run begins with a model that gives some right answers."""
    begins_taught(run, 30)
