"""Each tripwire by hand: numbers in which the fault is plain, the step at which it must be said, and what it names."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.config.load import load_config
from oxrl_core.config.tripwires import TRIPWIRE_CODES
from oxrl_core.errors import LogprobGapError, NumericsError, TripwireError
from oxrl_core.runs.rundir import RunDir
from oxrl_core.train.report import StepReport
from oxrl_core.train.row_facts import RowFacts, facts_of_items
from oxrl_core.train.tripwires import CODES, Tripwires
from oxrl_core.train.tripwires.base import Bell, Facts, Finding
from oxrl_core.train.tripwires.facts import bos_of
from oxrl_core.types import Credit, Example, Prompt, Rollout, Score

BASE = {"run": {"name": "wires"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}


@pytest.fixture
def wires(tmp_path: Path) -> Any:
    def make(overrides: Sequence[str] = (), **facts: Any) -> Tripwires:
        loaded = load_config(BASE, list(overrides))
        run = RunDir.create(tmp_path, loaded, kind="rl")
        return Tripwires(run, Facts(loaded.config, **{"total_steps": 100, "lesson": "advantages", **facts}))

    return make


def alerts(panel: Tripwires) -> list[dict[str, Any]]:
    return [event for event in panel.run.events() if event["level"] in ("warning", "error")]


def drawn(
    index: int = 0,
    logprob: float = -1.0,
    score: Score | None = None,
    end: str = "stop",
    prompt: Sequence[int] = (5, 6),
) -> Rollout:
    return Rollout(
        Prompt("p/train/7", list(prompt), "ab"), index, [3, 1], [logprob, -0.5], end, 4, index,  # type: ignore[arg-type]
        "x", score or Score(1.0),
    )  # fmt: skip


def play(panel: Tripwires, metrics: Sequence[dict[str, float]], rollouts: Sequence[Rollout] = ()) -> list[str]:
    """The code of each alert with its step, as `code@step`."""
    for step, row in enumerate(metrics, start=1):
        panel.look(StepReport(step, dict(row), drawn=list(rollouts)))
    return [f"{event['code']}@{event['step']}" for event in alerts(panel)]


def test_the_codes_of_the_configuration_are_those_that_ring():
    assert CODES == TRIPWIRE_CODES


def test_a_nan_logprob_names_its_sample(wires):
    panel = wires()
    assert play(panel, [{"loss": 1.0}], [drawn(0), drawn(1, math.nan), drawn(2, math.nan)]) == ["not_finite@1"]
    (event,) = alerts(panel)
    assert (event["level"], event["samples"]) == ("error", ["1/p/train/7/1"])


@pytest.mark.parametrize("bad", ["reward", "advantage", "trainer", "metric"])
def test_what_is_not_finite_is_found_wherever_it_is(wires, bad):
    panel = wires()
    one = drawn(3, score=Score(math.inf if bad == "reward" else 1.0))
    credit = Credit([math.nan if bad == "advantage" else 0.0] * 2)
    ours = [[-math.inf if bad == "trainer" else -1.0, -0.5]]
    metrics = {"kl/ref": math.nan if bad == "metric" else 0.0}
    panel.look(StepReport(9, metrics, [one], [credit], ours, [one]))
    (event,) = alerts(panel)
    assert event["code"] == "not_finite"
    assert event.get("samples", []) == ([] if bad == "metric" else ["9/p/train/7/3"])
    assert event["metric"] == {"metric": "kl/ref"}.get(bad, event["metric"])


def test_a_score_that_is_an_error_may_be_nan(wires):
    assert (
        play(wires(["tripwires.verifier_error_limit=1"]), [{}, {"loss": 1}], [drawn(score=Score(math.nan, "error"))])
        == []
    )


def test_tokens_that_are_not_those_of_the_completions_are_said(wires):
    panel = wires()
    two = [drawn(0), drawn(1)]
    credits = [Credit([0.0] * 2)] * 2
    panel.look(StepReport(1, {"num_tokens": 4.0}, two, credits, [[-1.0, -1.0]] * 2, two))
    assert alerts(panel) == []
    panel.look(StepReport(2, {"num_tokens": 3.0}, two, credits, [[-1.0, -1.0], [-1.0]], two))
    (event,) = alerts(panel)
    assert (event["code"], event["level"], event["value"], event["limit"]) == ("mask_coverage", "error", 3, 4)
    assert event["samples"] == ["2/p/train/7/1"]


def test_a_mask_that_covers_prompts_or_suddenly_little_is_said(wires):
    whole = {"num_tokens": 9.0, "mask/coverage": 1.0}
    assert play(wires(lesson="examples"), [whole]) == ["mask_coverage@1"]
    assert play(wires(lesson="documents"), [whole] * 12) == []
    rows = [{"num_tokens": 9.0, "mask/coverage": share} for share in [0.5] * 12 + [0.09, 0.5]]
    assert play(wires(lesson="examples"), rows) == ["mask_coverage@13"]


@pytest.mark.parametrize(
    ("trained", "each", "words"),
    [(8.0, 4, ""), (9.0, 4, "trained on 9 tokens; its rows have 8"), (2.0, 1, "one token of each row")],
)
def test_a_mask_that_lies_elsewhere_than_the_rows_say(wires, trained, each, words):
    panel = wires(lesson="examples")
    rows = [RowFacts(tokens=9, trained=each, first_trained=5, behind=0, ends=True)] * 2
    panel.look(StepReport(3, {"num_tokens": trained, "mask/coverage": 0.4}, row_facts=rows))
    said = [event for event in alerts(panel) if event["code"] == "mask_coverage"]
    assert [words in event["message"] for event in said] == ([True] if words else [])


def test_completions_that_never_end_and_those_that_are_cut_off_are_told_apart(wires):
    cut, whole = drawn(0, end="length"), drawn(1)
    assert play(wires(), [{"loss": 1}] * 12, [cut, cut]) == ["no_eos@10"]
    panel = wires()
    assert play(panel, [{"loss": 1}] * 12, [cut, cut, whole]) == ["truncation@10"]
    assert alerts(panel)[0]["samples"] == ["10/p/train/7/0"] * 2
    assert play(wires(), [{"loss": 1}] * 12, [cut, whole]) == []  # half: not over the limit
    assert play(wires(["rollout.stop_at_eos=false"]), [{"loss": 1}] * 12, [cut]) == []


def test_two_bos_tokens_are_seen(wires):
    panel = wires(bos_token_id=2)
    assert play(panel, [{"loss": 1}], [drawn(0, prompt=(2, 5)), drawn(1, prompt=(2, 2, 5))]) == ["double_bos@1"]
    assert alerts(panel)[0]["samples"] == ["1/p/train/7/1"]
    assert play(wires(), [{"loss": 1}], [drawn(0, prompt=(2, 2))]) == []


def test_two_bos_tokens_of_supervised_rows_are_seen(wires):
    rows = [Example([2, 2, 5, 1], [False, False, True, True]), Example([2, 5, 5, 1], [False, False, True, True])]
    panel = wires(bos_token_id=2, lesson="examples")
    panel.look(StepReport(1, {"loss": 1.0}, row_ids=["a/train/3", "a/train/4"], row_facts=facts_of_items(rows, {1})))
    assert [(event["code"], event["value"], event["samples"]) for event in alerts(panel)] == [
        ("double_bos", 0.5, ["a/train/3"])
    ]


def test_bos_is_what_the_tokenizer_writes_and_else_what_the_model_names(tmp_path):
    assert bos_of({"text_config": {"bos_token_id": 7}}, tmp_path) == 7
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 3, "content": "<s>"}]}))
    assert bos_of({"bos_token_id": None}, tmp_path) == bos_of({"bos_token_id": 7}, tmp_path) == 3


def test_a_critic_that_is_cut_off_is_said(wires):
    panel = wires()
    assert play(panel, [{"value/gradient/dead": 0.0}, {"value/gradient/dead": 24.0}]) == ["gradient_dead@2"]
    assert "24 parameters of the critic" in alerts(panel)[0]["message"]


def test_groups_without_variance(wires):
    rows = [{"groups/zero_variance": 0.95, "reward/mean": 1.0}] * 12
    assert play(wires(), rows) == ["zero_variance@10"]
    assert play(wires(), [{"groups/zero_variance": 0.85}] * 12) == []
    assert play(wires(["algorithm.advantage=returns"]), rows) == []


def test_verifier_errors_are_named_and_said_again_only_when_worse(wires):
    panel = wires()
    fine, late = drawn(0), drawn(1, score=Score(0.0, "timeout", detail="30 s were not enough"))
    for step, failed in enumerate([0, 2, 2, 3, 5, 9], start=1):
        panel.look(StepReport(step, {"loss": 1.0}, drawn=[late] * failed + [fine] * (10 - failed)))
    assert [(event["step"], event["level"]) for event in alerts(panel)] == [(2, "warning"), (5, "warning")]
    assert "30 s were not enough" in alerts(panel)[0]["message"]


def test_updates_that_are_rounded_away(wires):
    assert play(wires(), [{"lr": 1e-6, "update/lost": share} for share in (0.0, 0.4, 0.6)]) == ["lost_updates@3"]
    assert play(wires(), [{"lr": 0.0, "update/lost": 1.0}]) == ["lr_floor@1"], "nothing was to be added"


def test_adapters_that_are_not_there_or_do_not_move(wires):
    step = {"lr": 1e-3, "update/lost": 0.0}
    assert play(wires(has_adapters=True, adapted_modules=0), [step]) == ["lora_unbound@1"]
    assert play(wires(has_adapters=True, adapted_modules=4), [step]) == []
    still = wires(["tripwires.lost_update_limit=1"], has_adapters=True, adapted_modules=4)
    assert play(still, [{"lr": 1e-12, "update/lost": 1.0}]) == ["lora_unbound@1"]


def test_kl_over_its_limit_and_over_ten_times_its_target(wires):
    assert play(wires(), [{"kl/ref": kl} for kl in (0.1, 2.9, 3.1)]) == ["kl_high@3"]
    assert play(wires(["tripwires.kl_target=0.02"]), [{"kl/ref": kl} for kl in (0.1, 0.19, 0.21)]) == ["kl_high@3"]


def test_entropy_that_is_gone_while_the_reward_stands_still(wires):
    def rows(reward: Sequence[float]) -> list[dict[str, float]]:
        entropies = [2.0] * 3 + [0.1] * (len(reward) - 3)
        return [{"entropy": e, "reward/mean": r} for e, r in zip(entropies, reward, strict=True)]

    assert play(wires(), rows([0.3] * 12)) == ["entropy_low@4"]
    assert play(wires(), rows([1.0] * 12)) == []  # full marks: nothing is left to try


def test_entropy_that_rises_while_the_reward_falls(wires):
    rising = [{"entropy": 1.0 + 0.1 * step, "reward/mean": 0.5} for step in range(12)]
    assert play(wires(), rising) == []
    falling = [row | {"reward/mean": 0.9 - 0.05 * step} for step, row in enumerate(rising)]
    # The start is the mean of 1.0, 1.1 and 1.2; 1.5 times that is 1.65: passed at step 8, known to fall from step 10.
    assert play(wires(), falling) == ["entropy_high@10"]


def test_a_gradient_spike_names_what_pushed(wires):
    panel = wires(largest_gradients=lambda: ["lm_head.weight"])
    norms = [1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 1.1, 1.0, 3.9, 1.0, 40.0]
    one = drawn(0)
    for step, norm in enumerate(norms, start=1):
        panel.look(StepReport(step, {"grad_norm": norm}, [one], [Credit([1.0, 1.0])], [], [one]))
    (event,) = alerts(panel)
    assert (event["code"], event["step"], event["value"]) == ("gradient_spike", 12, 40)
    assert (event["parameters"], event["samples"]) == (["lm_head.weight"], ["12/p/train/7/0"])


def test_dead_gradients_are_named(wires):
    panel = wires(dead_parameters=lambda: ["layers.0.up.weight"])
    assert play(panel, [{"gradient/dead": 0.0}, {"gradient/dead": 1.0, "grad_norm": 2.0}]) == ["gradient_dead@2"]
    assert alerts(panel)[0]["parameters"] == ["layers.0.up.weight"]


def test_a_learning_rate_at_its_floor_with_steps_to_go(wires):
    falling = ["train.lr_schedule=linear", "train.lr=1e-3", "train.lr_floor=0.1"]
    assert play(wires(falling), [{"lr": rate} for rate in (1e-3, 5e-4, 1e-4)]) == ["lr_floor@3"]
    assert play(wires(falling, total_steps=3), [{"lr": rate} for rate in (1e-3, 5e-4, 1e-4)]) == []
    assert play(wires(), [{"lr": 1e-6}] * 3) == []


def test_throughput_that_collapses(wires):
    fast, slow = {"tokens_per_second": 100.0, "time/generate": 1.0}, {"tokens_per_second": 40.0, "time/generate": 9.0}
    panel = wires()
    assert play(panel, [fast] * 25 + [slow] * 4 + [fast] + [slow] * 6) == ["slow_step@35"]
    assert "time/generate (9.0 s)" in alerts(panel)[0]["message"]


def test_form_that_is_rewarded_and_answers_that_never_are(wires):
    formed = drawn(0, score=Score(0.2, parts={"format": 1.0, "accuracy": 0.0}))
    right = drawn(1, score=Score(1.2, parts={"format": 1.0, "accuracy": 1.0}))
    assert play(wires(), [{"reward/mean": 0.2}] * 11, [formed] * 4) == ["reward_flat@10"]
    assert play(wires(), [{"reward/mean": 0.2}] * 11, [formed, right]) == []


def test_an_alert_is_said_once_then_when_worse_then_when_it_comes_back():
    bell, bad = Bell(), Finding("m", "n", badness=1.0)
    worse = Finding("m", "n", badness=2.0)
    assert [bell.hears(one) for one in (bad, bad, worse, worse)] == [True, False, True, False]
    # Two alerts were said: ten quiet steps make the next one news.
    assert [bell.hears(None) for _ in range(9)] == [False] * 9 and not bell.hears(bad)
    assert [bell.hears(None) for _ in range(10)] == [False] * 10 and bell.hears(bad)


def test_what_flickers_for_ever_makes_few_alerts():
    bell, bad = Bell(), Finding("m", "n")
    assert sum(bell.hears(bad if step % 7 == 0 else None) for step in range(10_000)) <= 3


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(wires):
    rows = [{"groups/zero_variance": 1.0, "grad_norm": 1.0 + 0.01 * step, "entropy": 2.0} for step in range(14)]
    whole, first = wires(), wires()
    expected = play(whole, rows)
    for step, row in enumerate(rows[:6], start=1):
        first.look(StepReport(step, dict(row)))
    second = wires()
    second.restore(json.loads(json.dumps(first.state())))
    for step, row in enumerate(rows[6:], start=7):
        second.look(StepReport(step, dict(row)))
    assert [f"{event['code']}@{event['step']}" for event in alerts(second)] == expected == ["zero_variance@10"]
    assert second.state() == whole.state()


def test_a_code_of_stop_on_ends_the_run_after_its_event(wires):
    panel = wires(["tripwires.stop_on=[kl_high]"])
    ending = panel.look(StepReport(5, {"kl/ref": 9.0}))
    assert isinstance(ending, TripwireError) and ending.where == "step 5" and "kl_high" in ending.what
    assert [event["code"] for event in alerts(panel)] == ["kl_high"]


def test_failures_that_end_a_run_are_events_with_their_sample_or_parameter(wires):
    panel = wires()
    panel.alarm(LogprobGapError("they disagree", "copy3/train/7/1, token 2", "n"), 4)
    panel.alarm(NumericsError("the gradient norm is not finite", "parameter layers.0.q.weight, step 4, rank 0", "n"), 4)
    gap, gradient = alerts(panel)
    assert (gap["code"], gap["samples"]) == ("logprob_gap", ["4/copy3/train/7/1"])
    assert (gradient["code"], gradient["parameters"]) == ("not_finite", ["layers.0.q.weight"])
