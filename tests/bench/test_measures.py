"""What is measured, held against transformers' own numbers and against what is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from oxrl_core.algorithms.base import all_algorithms, get_algorithm
from oxrl_core.bench.learn import flip_loss, needed
from oxrl_core.bench.measures import (
    Subject,
    greedy_reward,
    measures_of,
    nats_per_token,
    preference_margin,
    score_accuracy,
    teacher_kl,
)
from oxrl_core.config.load import load_config
from oxrl_core.datasets.tiny import digits_text, reverse3
from oxrl_core.models.load import load_tokenizer
from oxrl_core.models.miniature import make_miniature


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of different random weights."""
    home = tmp_path_factory.mktemp("models")
    return [make_miniature("chars", home / f"model-{seed}", seed) for seed in (0, 1)]


def subject(recipe: str, folder: Path, beside: Path | None = None) -> Subject:
    return Subject(folder, load_config(recipe).config, beside)


def silenced(folder: Path, target: Path) -> Path:
    """The model with a language head of zeros: every token is as likely as any other."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(target)
    load_tokenizer(folder).save_pretrained(target)
    return target


def test_nats_per_token_are_the_cross_entropy_that_transformers_gives(models: list[Path]) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(models[0]).eval(), load_tokenizer(models[0])
    losses = []
    for row in reverse3("eval", 0):
        ids = torch.tensor([tokenizer(row["prompt"] + row["completion"])["input_ids"] + [tokenizer.eos_token_id]])
        labels = ids.clone()
        labels[:, :4] = -100  # the prompt
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=labels).loss.item())
    assert nats_per_token(subject("sft", models[0])) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_who_knows_nothing_pays_the_logarithm_of_the_vocabulary(models: list[Path], tmp_path: Path) -> None:
    nothing = silenced(models[0], tmp_path / "nothing")
    assert nats_per_token(subject("sft", nothing)) == pytest.approx(math.log(19))
    assert nats_per_token(subject("cpt", nothing)) == pytest.approx(math.log(19))
    assert len(digits_text("eval", 0)) == 36
    # Chosen and rejected completions have four tokens each; the drafts of the labeled rows too.
    assert preference_margin(subject("dpo", nothing)) == pytest.approx(0.0)
    assert preference_margin(subject("kto", nothing)) == pytest.approx(0.0)
    # KL(teacher || uniform) = log V - entropy of the teacher, which is at most log V.
    assert 0 < teacher_kl(subject("sft", nothing, models[0])) < math.log(19)


def test_a_model_has_no_distance_from_itself_and_one_from_another(models: list[Path]) -> None:
    assert teacher_kl(subject("sft", models[0], models[0])) == pytest.approx(0.0, abs=1e-9)
    assert teacher_kl(subject("sft", models[0], models[1])) > 0.05


def test_random_weights_know_neither_answers_nor_preferences(models: list[Path]) -> None:
    # Each of four positions is right in one of 19 cases.
    assert greedy_reward(subject("sgrpo", models[0])) < 0.2
    assert 0.3 < score_accuracy(subject("rm", models[0])) < 0.7


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("sgrpo", ["true reward"]),
        ("rft", ["true reward"]),
        ("online_dpo", ["true reward"]),
        ("rlaif", ["true reward"]),
        ("rlhf", ["true reward", "model score"]),
        ("sft", ["nats/token"]),
        ("cpt", ["nats/token"]),
        ("spin", ["nats/token"]),
        ("kd", ["teacher KL"]),
        ("dpo", ["preference"]),
        ("kto", ["preference"]),
        ("rm", ["right pairs"]),
    ],
)
def test_each_algorithm_is_measured_by_what_it_promises(name: str, measured: list[str]) -> None:
    assert [one.name for one in measures_of(get_algorithm(name), load_config(name).config)] == measured


def test_a_recipe_says_what_other_runs_it_needs() -> None:
    assert needed(load_config("rlhf").config) == ["reward.path", "model.path"]
    assert needed(load_config("kd").config) == ["algorithm.teacher"]
    assert needed(load_config("dpo").config) == []


@pytest.fixture
def flipped() -> Iterator[str]:
    from oxrl_core.algorithms.base import algorithm

    entry = get_algorithm("rlhf")
    flip_loss("rlhf")
    yield "rlhf"
    algorithm("rlhf", entry.paper, lesson=entry.lesson, running=entry.running, summary=entry.summary)(entry.loss)
    assert get_algorithm("rlhf") == entry


def test_a_flipped_loss_has_the_other_sign_and_all_else_is_as_it_was(flipped: str) -> None:
    from oxrl_core.types import Rollouts

    plain, turned = get_algorithm("sgrpo"), get_algorithm(flipped)
    logprobs = torch.tensor([[0.0, -1.0, -2.0]])
    signals = Rollouts(
        logprobs=logprobs,
        completion_mask=torch.tensor([[False, True, True]]),
        advantages=torch.ones(1, 3),
        old_logprobs=logprobs - 0.1,
    )
    assert torch.equal(turned.loss(signals), -plain.loss(signals))
    facts = {"name": "", "paper": "", "summary": "", "loss": plain.loss}
    assert replace(turned, **facts) == replace(plain, **facts)
    assert set(all_algorithms()) >= {"rlhf", "rlaif", "sgrpo"}
    assert get_algorithm("rlaif").loss is plain.loss, "no other name of the same loss is touched"
