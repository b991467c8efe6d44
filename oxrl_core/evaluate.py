"""The process of an evaluation: `python -m oxrl_core.evaluate --run-dir DIR`. It draws completions of held-out rows,
judges them, records them as a step's rollouts and leaves evaluation.json behind.

A final model, or one by its path, needs a sampler alone. A checkpoint is the state of a learner: that one is built as
in the run it belongs to, and hands its weights to the sampler, as after a step.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.build import foundation, held_out, media_reader, renderer, start_learner, start_sampler
from oxrl_core.data.chat import RenderNotes
from oxrl_core.data.render import render_prompt
from oxrl_core.engine.checkpoint import read_manifest
from oxrl_core.engine.environment import engine_environment
from oxrl_core.errors import CheckpointError, DataError, OxrlError
from oxrl_core.rewards.base import Reward, close_workers, get_reward
from oxrl_core.rollout.recorder import Recorder, StepRecord
from oxrl_core.rollout.sampler import Sampler
from oxrl_core.runs.evaluation import EVALUATE_KIND, RESULT_FILE, EvaluatedSample, EvaluationView
from oxrl_core.runs.machine.environment import record_environment
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.train.verdicts import judge, reward_of, with_verdict
from oxrl_core.types import Prompt, Rollout

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config

PROMPTS_AT_ONCE = 32  # judged together, within one deadline of the reward; then the progress moves
SHOWN_SAMPLES = 3  # of the worst and of the best
LONGEST_SHOWN = 400  # characters of a text in the result; the record holds it whole


@dataclass
class Ready:
    """What an evaluation takes."""

    sampler: Sampler
    prompts: list[Prompt]
    reward: Reward
    tokenizer_file: Path


def evaluate(run: RunDir) -> EvaluationView:
    """What came of the evaluation that the run's spec orders; it is in the run's folder as well."""
    order: dict[str, Any] = run.spec()[EVALUATE_KIND]
    config = run.config()
    run.write_progress("starting", 0, 0)
    record_environment(run)
    rollouts: list[Rollout] = []
    step = int(order["step"] or 0)
    with built(run, config, order) as ready:
        recorder = Recorder(run.rollouts, tokenizer_file=ready.tokenizer_file)
        try:
            for done, batch in batches(ready.prompts):
                drawn = ready.sampler.generate(
                    batch,
                    group_size=int(order["samples"]),
                    temperature=config.rollout.temperature,
                    max_tokens=config.rollout.max_completion_tokens,
                    step=step,
                    greedy=bool(order["greedy"]),
                )
                judge(ready.reward, drawn, config.reward.timeout_seconds)
                rollouts += drawn
                so_far = measured(rollouts)
                run.write_progress("evaluating", done, len(ready.prompts), so_far)
            recorder.write(StepRecord(step, drawn=rollouts))
        finally:
            recorder.close()
    result = EvaluationView(
        run_id=run.run_id,
        of=order["of"],
        step=order["step"],
        dataset=order["dataset"],
        reward=config.reward.name,
        greedy=bool(order["greedy"]),
        prompts=len({id(rollout.prompt) for rollout in rollouts}),
        completions=len(rollouts),
        statuses=dict(Counter(rollout.score.status for rollout in rollouts if rollout.score is not None)),
        samples=samples_of(rollouts),
        next="query_rollouts",
        **{name.removeprefix("eval/"): value for name, value in measured(rollouts).items() if name != "eval/reward"},
        mean=measured(rollouts).get("eval/reward"),
    )
    run.append_metrics({"step": step, **measured(rollouts)})
    write_json(run.path / RESULT_FILE, result.model_dump(mode="json"), durable=True)
    run.write_progress("finished", len(ready.prompts), len(ready.prompts), measured(rollouts))
    return result


def batches(prompts: Sequence[Prompt]) -> Iterator[tuple[int, Sequence[Prompt]]]:
    """Some prompts at a time, each with the number that are done after it."""
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        batch = prompts[start : start + PROMPTS_AT_ONCE]
        yield start + len(batch), batch


def measured(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """The metrics of judged rollouts: only verdicts that are the model's doing count."""
    metrics = {
        "eval/length": statistics.fmean(len(rollout.token_ids) for rollout in rollouts),
        "eval/truncated": statistics.fmean(rollout.finish_reason == "length" for rollout in rollouts),
    }
    by_prompt: dict[int, list[float]] = {}
    for rollout in with_verdict(rollouts):
        by_prompt.setdefault(id(rollout.prompt), []).append(reward_of(rollout))
    if not by_prompt:
        return metrics
    means = [statistics.fmean(rewards) for rewards in by_prompt.values()]
    full = [[reward >= 1.0 for reward in rewards] for rewards in by_prompt.values()]
    metrics |= {
        "eval/reward": statistics.fmean(means),
        "eval/accuracy": statistics.fmean(is_full for group in full for is_full in group),
        "eval/solved": statistics.fmean(any(group) for group in full),
    }
    if len(means) > 1:
        # Completions of one prompt are not independent: the prompts are what was sampled.
        metrics["eval/standard_error"] = statistics.stdev(means) / math.sqrt(len(means))
    return metrics


def samples_of(rollouts: Sequence[Rollout]) -> list[EvaluatedSample]:
    """The worst and the best completions; those without a verdict first of all."""
    ordered = sorted(rollouts, key=lambda one: reward_of(one) if with_verdict([one]) else -math.inf)
    if len(ordered) > 2 * SHOWN_SAMPLES:
        ordered = ordered[:SHOWN_SAMPLES] + ordered[-SHOWN_SAMPLES:]
    return [
        EvaluatedSample(
            prompt_id=one.prompt.id,
            prompt=one.prompt.text[-LONGEST_SHOWN:],
            completion=one.text[-LONGEST_SHOWN:],
            answer=one.prompt.answer[-LONGEST_SHOWN:],
            reward=reward_of(one) if with_verdict([one]) else None,
            status=one.score.status if one.score is not None else "",
        )
        for one in ordered
    ]


@contextmanager
def built(run: RunDir, config: Config, order: dict[str, Any]) -> Iterator[Ready]:
    """Sampler, prompts and reward; all is ended afterwards."""
    with ExitStack() as stack:
        reward = get_reward(config.reward.name, config.reward.params)
        if reward.service is not None:
            reward.service.ready()
            stack.callback(reward.service.close)
        stack.callback(close_workers)
        cluster, folder, tokenizer = foundation(config, run)
        if cluster is not None:
            stack.callback(cluster.close)
        reader = media_reader(folder, tokenizer)
        render = renderer(render_prompt, reader, tokenizer=tokenizer, data=config.data, needs_completion=False)
        bad: list[DataError] = []
        prompts = held_out(config, partial(render, notes=RenderNotes()), bad, lesson="advantages")
        if not prompts:
            raise DataError(
                f"no row can be evaluated; {len(bad)} are bad", order["dataset"], "look at them: oxrl data inspect"
            )
        decode = partial(tokenizer.decode, skip_special_tokens=True)
        sampler = Sampler(start_sampler(config, folder, cluster, reader is not None), config, decode, run.append_event)
        stack.callback(sampler.close)
        if order["step"] is not None:
            hand_over(run, config, order, folder, cluster, sampler, stack.callback)
        sampler.ready()
        yield Ready(sampler, prompts, reward, folder / "tokenizer.json")


def hand_over(
    run: RunDir,
    config: Config,
    order: dict[str, Any],
    model_folder: Path,
    cluster: Any,
    sampler: Sampler,
    afterwards: Callable[[Callable[[], None]], object],
) -> None:
    """Gives the sampler the weights of a checkpoint, through a learner like the one that wrote it."""
    parent = RunDir(run.home / "runs" / order["run_id"])
    checkpoint = parent.checkpoints / f"step_{order['step']:08d}"
    if read_manifest(checkpoint) is None:
        raise CheckpointError("it does not match its manifest", str(checkpoint), "name another step")
    own = parent.config()
    own = own.model_copy(update={"run": own.run.model_copy(update={"backend": config.run.backend})})
    learner = start_learner(own, run, model_folder, max(1, int(order["step"])), cluster)
    afterwards(learner.close)
    learner.ready()
    learner.load(checkpoint)
    sampler.load_weights(learner.export_weights(), int(order["step"]))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 evaluated, else that of the error."""
    parser = argparse.ArgumentParser(prog="python -m oxrl_core.evaluate", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="run directory of kind evaluate")
    run = RunDir(parser.parse_args(argv).run_dir)
    os.environ.update({name: value for name, value in engine_environment().items() if name not in os.environ})
    try:
        evaluate(run)
    except OxrlError as error:
        run.write_error(error.as_dict())
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:  # the last frame of the process: it must leave word in the run directory
        traceback.print_exc()
        name = type(error).__name__
        next_step = "read logs/driver.log of the run"
        run.write_error({"code": name, "what": f"{name}: {error}", "where": "evaluate", "next": next_step})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
