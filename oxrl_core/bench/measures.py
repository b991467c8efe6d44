"""What a trained model can do on held-out rows, measured by plain transformers on the exported folder.

Engine, loss and evaluation of the run have no say here: one row at a time, without padding, in float64 from the logits
on. Whatever is wrong in them cannot make its own success.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from oxrl_core.data.render import LabeledRow, render_example, render_labeled, render_pair, render_prompt, render_text
from oxrl_core.datasets.base import load_rows
from oxrl_core.models.load import load_tokenizer
from oxrl_core.rewards.base import get_reward
from oxrl_core.types import Example, PairExample, Prompt, Rollout, Row

if TYPE_CHECKING:
    from oxrl_core.algorithms.base import Algorithm
    from oxrl_core.config.schema import Config

TRUE_REWARD = "positions"  # what the tasks of the recipes mean, whatever reward a run was given


@dataclass(frozen=True)
class Subject:
    """A model folder, the configuration whose held-out rows it is asked about, and the folder of another model."""

    folder: Path
    config: Config
    beside: Path | None = None  # the teacher, or the reward model


@dataclass(frozen=True)
class Measure:
    """One number about a model."""

    name: str
    better: Literal["higher", "lower"]
    of: Callable[[Subject], float]


def measures_of(algorithm: Algorithm, config: Config) -> list[Measure]:
    """What an algorithm is to make better: by what it learns from, and by what its loss sees."""
    if algorithm.signals == "ScoredPairs":
        return [Measure("right pairs", "higher", score_accuracy)]
    if algorithm.signals == "Distributions":
        return [Measure("teacher KL", "lower", teacher_kl)]
    if algorithm.lesson in ("examples", "documents", "self_play"):
        return [Measure("nats/token", "lower", nats_per_token)]
    if algorithm.lesson in ("pairs", "labeled"):
        return [Measure("preference", "higher", preference_margin)]
    measures = [Measure("true reward", "higher", greedy_reward)]
    if config.reward.name == "reward_model":
        measures.append(Measure("model score", "higher", greedy_score))
    return measures


@torch.inference_mode()
def nats_per_token(subject: Subject) -> float:
    """Mean negative log-likelihood of the tokens of the held-out completions or documents."""
    model = _language_model(subject.folder)
    logprobs = [_logprobs(model, example) for example in _examples(subject)]
    return -float(torch.cat(logprobs).mean())


@torch.inference_mode()
def teacher_kl(subject: Subject) -> float:
    """Mean KL(teacher || model) at the tokens of the held-out completions, at temperature 1."""
    assert subject.beside is not None, "a distillation has a teacher"
    student, teacher = _language_model(subject.folder), _language_model(subject.beside)
    divergences: list[Tensor] = []
    for example in _examples(subject):
        p, q = _log_softmax(teacher, example), _log_softmax(student, example)
        divergences.append((p.exp() * (p - q)).sum(-1)[_is_learned(example)])
    return float(torch.cat(divergences).mean())


@torch.inference_mode()
def preference_margin(subject: Subject) -> float:
    """Mean log-likelihood of the held-out completions that are preferred, minus that of the others."""
    model = _language_model(subject.folder)
    good, bad = _preferences(subject)
    return _mean([float(_logprobs(model, one).sum()) for one in good]) - _mean(
        [float(_logprobs(model, one).sum()) for one in bad]
    )


@torch.inference_mode()
def score_accuracy(subject: Subject) -> float:
    """Share of the held-out pairs whose preferred completion has the higher score.

    The folder that a run starts from has no score head yet: transformers gives it a random one, by the run's seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subject.config.run.seed)
        model = _reward_model(subject.folder)
    pairs = zip(*_preferences(subject), strict=True)
    return _mean([float(_score(model, good.token_ids) > _score(model, bad.token_ids)) for good, bad in pairs])


@torch.inference_mode()
def greedy_reward(subject: Subject) -> float:
    """Mean true reward of what the model says to the held-out prompts where it always takes the likeliest token."""
    reward = get_reward(TRUE_REWARD)
    scores = [reward(rollout) for rollout in _greedy(subject)]
    assert all(score.status == "ok" for score in scores), scores
    return _mean([score.value for score in scores])


@torch.inference_mode()
def greedy_score(subject: Subject) -> float:
    """Mean score that the reward model gives to those same completions, up to and with their EOS."""
    assert subject.beside is not None, "the reward is a model"
    model = _reward_model(subject.beside)
    eos: int = load_tokenizer(subject.folder).eos_token_id
    return _mean([_score(model, [*one.prompt.token_ids, *_until(one.token_ids, eos)]) for one in _greedy(subject)])


def _greedy(subject: Subject) -> Iterator[Rollout]:
    config = subject.config
    model, tokenizer = _language_model(subject.folder), load_tokenizer(subject.folder)
    for prompt in _rendered(subject, render_prompt):
        assert isinstance(prompt, Prompt)
        ids = list(prompt.token_ids)
        for _ in range(config.rollout.max_completion_tokens):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id and config.rollout.stop_at_eos:
                break
        completion = ids[len(prompt.token_ids) :]
        has_ended = completion[-1] == tokenizer.eos_token_id
        yield Rollout(
            prompt, 0, completion, [0.0] * len(completion), "stop" if has_ended else "length",
            policy_version=0, seed=0, text=tokenizer.decode(completion, skip_special_tokens=True),
        )  # fmt: skip


def _examples(subject: Subject) -> list[Example]:
    """The held-out completions, or windows of documents."""
    has_text = all(row.get("text") is not None for row in _rows(subject))
    return _rendered(subject, render_text if has_text else render_example)


def _preferences(subject: Subject) -> tuple[list[Example], list[Example]]:
    """The held-out completions that are preferred or desirable, and the others."""
    if all(isinstance(row.get("label"), bool) for row in _rows(subject)):
        rows: list[LabeledRow] = _rendered(subject, render_labeled)
        return (
            [_whole(row) for row in rows if row.is_desirable],
            [_whole(row) for row in rows if not row.is_desirable],
        )
    pairs: list[PairExample] = _rendered(subject, render_pair)
    return [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]


def _whole(row: LabeledRow) -> Example:
    return Example(
        row.prompt_ids + row.completion_ids, [False] * len(row.prompt_ids) + [True] * len(row.completion_ids)
    )


def _rows(subject: Subject) -> list[Row]:
    config = subject.config
    return [row for source in config.data.eval for row in load_rows(source, config.run.seed)]


def _rendered(subject: Subject, render: Callable[..., Any]) -> list[Any]:
    """What each held-out row becomes; every row fits in these recipes."""
    tokenizer = load_tokenizer(subject.folder)
    items: list[Any] = []
    for row in _rows(subject):
        made = render(row, tokenizer, subject.config.data)
        assert made is not None, row
        items += made if isinstance(made, list) else [made]
    return items


def _language_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def _reward_model(folder: Path) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, num_labels=1
    )
    return model.eval()


def _log_softmax(model: Any, example: Example) -> Tensor:
    """(T-1, V): what the model says about each token but the first."""
    return model(input_ids=torch.tensor([example.token_ids])).logits[0, :-1].double().log_softmax(-1)


def _is_learned(example: Example) -> Tensor:
    """(T-1,) bool: the tokens that are trained on, of all but the first."""
    return torch.tensor(example.completion_mask[1:])


def _logprobs(model: Any, example: Example) -> Tensor:
    """The log-prob of each token that is trained on."""
    said = _log_softmax(model, example)
    return said.gather(-1, torch.tensor(example.token_ids[1:])[:, None])[:, 0][_is_learned(example)]


def _score(model: Any, token_ids: list[int]) -> float:
    return float(model(input_ids=torch.tensor([token_ids])).logits[0, 0])


def _until(token_ids: list[int], last: int) -> list[int]:
    """The ids up to and with the first `last`; all of them where there is none."""
    return token_ids[: token_ids.index(last) + 1] if last in token_ids else token_ids


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)
