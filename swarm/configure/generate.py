"""A configuration for a model on given GPUs: looked at, planned, ruled, checked, and written with its reasons."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from oxrl_core.algorithms.base import JUDGED_LESSONS, REFERENCED_SIGNALS, Algorithm, get_algorithm
from oxrl_core.config.check import check_config
from oxrl_core.config.layers import parse_override
from oxrl_core.config.load import load_config
from oxrl_core.config.machine import Machine, this_machine
from oxrl_core.config.presets import preset_for
from oxrl_core.config.requirements import Problem
from oxrl_core.config.schema import AlgorithmConfig
from oxrl_core.errors import ConfigError, MachineError, ModelError
from oxrl_core.runs.rundir import oxrl_home
from swarm.configure.rules import Chosen, apply_rules, choose_lengths
from swarm.configure.views import Choice, GeneratedConfig
from swarm.configure.yaml_with_reasons import write_reasoned
from swarm.scout.facts import Facts, registry_facts
from swarm.scout.inspection import gpus_at_hand, look_at
from swarm.scout.planning import Plan, Wish, plan_training
from swarm.scout.tasks import BY_LESSON, Task, task_of
from swarm.scout.verdict import decide, find_problems

CPU_PARAMETERS = 500_000_000  # more than that is a miniature without a GPU
CPU_SHARE = 0.6  # of the machine's memory
USUAL_CRITIC = AlgorithmConfig().critic
PLENTY = float("inf")  # the host of GPUs that are only spoken of
_NOT_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def generate_config(
    model: str,
    algorithm: str = "sgrpo",
    dataset: str = "",
    reward: str = "",
    gpus: int = -1,
    gpu_memory_gib: float = 0.0,
    overrides: Sequence[str] = (),
    *,
    task: str = "",
    home: Path | None = None,
) -> GeneratedConfig:
    """A configuration that fits model, algorithm and GPUs (-1: of this machine), every value with its reason.

    MachineError, with the numbers, where nothing fits; ModelError where the model cannot be trained at all.
    """
    home = home or oxrl_home()
    entry = get_algorithm(algorithm)
    number, size = gpus_at_hand(gpus, gpu_memory_gib)
    facts = look_at(model)
    verdict, reasons = decide(facts, find_problems(facts, ()))
    if verdict == "no" or facts.shape is None:
        why = "; ".join(reasons) if verdict == "no" else "its sizes are not known"
        raise ModelError(f"it cannot be trained: {why}", facts.model, f"oxrl scout {facts.model} says more")
    machine = this_machine(home) if number == 0 or gpus < 0 else _spoken_of(number, size)
    if number == 0:
        machine = replace(machine, gpu_memory_gib=())
    task_chosen = task_of(facts, task)
    said = {**preset_for(entry, {}, lora=False).values(), **{o.path: o.value for o in map(parse_override, overrides)}}
    case, plan, facts = _planned(facts, entry, task_chosen, number, size, machine, said)
    if facts.is_miniature and not task:
        task_chosen = task_of(facts)
        case |= {"task": task_chosen.name, "system_prompt": "", "wants_system": False}
    if not plan.fits:
        raise MachineError(
            f"{facts.model} with {algorithm} does not fit into {number} GPU(s) of {size:g} GiB: {plan.method_why}",
            plan.memory.strategy,
            "more or larger GPUs, a smaller model, or without GPUs its miniature (gpus 0)",
        )
    chosen = {
        **_identity(facts, entry, plan, number, size),
        **_work(entry, task_chosen, dataset, reward),
        **apply_rules({**case, "wants_system": bool(case["system_prompt"]) and not dataset}),
    }
    for text in overrides:
        override = parse_override(text)
        chosen = {key: value for key, value in chosen.items() if not key.startswith(f"{override.path}.")}
        chosen[override.path] = Chosen(override.value, "asked for")
    head = f"{algorithm} for {facts.model} on {f'{number} GPU(s) of {size:g} GiB' if number else 'the CPU'}: "
    text = write_reasoned(f"{head}{plan.memory.strategy}. Generated; every value has its reason.", chosen)
    loaded = load_config(text)
    needs = check_config(loaded.config, home=home, machine=machine)
    lacking = [problem for problem in needs.problems if problem.severity == "error" and problem.code == "MachineError"]
    if lacking and gpus >= 0 and number:  # the check before every launch is the more careful of two estimates
        what = f"the plan takes {plan.memory.learner_gib:.1f} of {size:.1f} GiB, but {lacking[0].what}"
        raise MachineError(what, plan.memory.strategy, lacking[0].next)
    return _written(text, facts, algorithm, plan, chosen, needs.problems, needs.ok, home, loaded.notes)


def _spoken_of(number: int, size: float) -> Machine:
    """A machine with these GPUs, of which nothing else is known: it has plenty of the rest."""
    return Machine(8 * number, PLENTY, PLENTY, PLENTY, (size,) * number)


def _planned(
    facts: Facts, algorithm: Algorithm, task: Task, number: int, size: float, machine: Machine, said: dict[str, Any]
) -> tuple[dict[str, Any], Plan, Facts]:
    """The facts for the rules and the way of training; without a GPU a large model becomes its miniature."""
    assert facts.shape is not None
    if number == 0 and not facts.is_miniature:
        case = _case(facts, algorithm, task, number, size, said)
        plan = plan_training(facts.shape, _wish(case, algorithm, number, size))
        too_large = (facts.parameters or 0) > CPU_PARAMETERS
        if not too_large and plan.memory.host_gib <= CPU_SHARE * machine.memory_gib:
            return _with_plan(case, plan), plan, facts
        if not facts.slug:
            raise MachineError(
                f"{(facts.parameters or 0) / 1e9:.2f}B parameters need {plan.memory.host_gib:.1f} GiB without a GPU; "
                f"this machine has {machine.memory_gib:.1f} GiB, and more than 0.5B take days",
                facts.model,
                "name GPUs (--gpus N --gpu-memory G), or a model of the registry, which has a miniature",
            )
        note = (
            f"the miniature of {facts.model}: {(facts.parameters or 0) / 1e9:.2f}B parameters without a GPU take days"
        )
        facts = registry_facts(f"miniature:{facts.slug}", note)
    assert facts.shape is not None
    case = _case(facts, algorithm, task, number, size, said)
    plan = plan_training(facts.shape, _wish(case, algorithm, number, size))
    return _with_plan(case, plan), plan, facts


def _case(
    facts: Facts, algorithm: Algorithm, task: Task, number: int, size: float, said: dict[str, Any]
) -> dict[str, Any]:
    """What is known before anything is planned, by the names that the rules use."""
    judged = algorithm.lesson in JUDGED_LESSONS
    case: dict[str, Any] = {
        "said": said,
        "kind": algorithm.kind,
        "lesson": algorithm.lesson,
        "task": task.name,
        "cpu": number == 0,
        "gpu_memory_gib": size,
        "miniature": facts.is_miniature,
        "thinking": facts.template.thinking,
        "system_role": facts.template.system_role,
        "has_template": facts.template.present,
        "vllm": facts.support.vllm,
        "revision": facts.repository.revision,
        "revision_known": facts.place == "hub" and len(facts.repository.revision) == 40,
        "group_size": int(said.get("rollout.group_size", 8)),
        "system_prompt": task.system_prompt if judged else "",
    }
    prompt, completion, example, why = choose_lengths(case)
    context = facts.context or prompt + completion + example
    if prompt + completion > context:
        prompt, completion = context // 4, min(completion, context // 4)
        why = f"the model reads {context} tokens"
    return case | {"prompt": prompt, "completion": completion, "example": min(example, context), "length_why": why}


def _wish(case: dict[str, Any], algorithm: Algorithm, number: int, size: float) -> Wish:
    said = case["said"]
    compares = algorithm.signals in REFERENCED_SIGNALS or float(said.get("algorithm.kl_coef", 0.0)) > 0
    has_values = algorithm.lesson == "advantages" and said.get("algorithm.advantage") == "gae"
    draws = algorithm.kind == "rl"
    return Wish(
        gpus=number,
        gpu_memory_gib=size,
        draws=draws,
        prompt_tokens=case["prompt"] if draws else case["example"],
        completion_tokens=case["completion"] if draws else 0,
        group_size=case["group_size"],
        compares=compares and not said.get("algorithm.precompute_reference"),
        has_critic=has_values and said.get("algorithm.critic", USUAL_CRITIC) == "separate",
        teacher_parameters=_parameters_of(said.get("algorithm.teacher")),
        scorer_parameters=_parameters_of(said.get("reward.params.path")),
    )


def _parameters_of(model: object) -> int:
    """The size of a model that is held beside the policy; 0 where there is none, or nobody knows."""
    if not isinstance(model, str) or not model or model.startswith("run:"):
        return 0
    return look_at(model).parameters or 0


def _with_plan(case: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The facts, and what was planned."""
    ask, memory, wish = plan.ask, plan.memory, plan.wish
    sampler_gpus = ask.gpus - ask.ranks if memory.layout == "apart" else ask.ranks
    wanted = case["prompt"] if wish.draws else case["example"]
    halved = f"; halved to fit: {case['length_why']}" if wish.prompt_tokens < wanted else ""
    return {
        **case,
        **memory.model_dump(exclude={"why", "fits", "gpus"}),
        "lora": ask.lora_rank > 0,
        "lora_rank": ask.lora_rank,
        "zero_stage": ask.zero_stage,
        "checkpointing": ask.checkpointing,
        "offload_optimizer": ask.offload_optimizer,
        "micro_batch_tokens": ask.micro_batch_tokens,
        "ranks": ask.ranks,
        "tensor_parallel": ask.tensor_parallel,
        "sampler_workers": max(1, sampler_gpus // ask.tensor_parallel),
        "row_tokens": ask.row_tokens,
        "prompt_tokens": wish.prompt_tokens,
        "completion_tokens": wish.completion_tokens,
        "example_tokens": wish.prompt_tokens,
        "length_why": f"rows of {wish.row_tokens} tokens{halved}" if halved else case["length_why"],
        "method_why": plan.method_why,
        "rung_why": plan.rung_why,
        "layout_why": plan.layout_why,
        "wants_system": False,
    }


def _identity(facts: Facts, algorithm: Algorithm, plan: Plan, number: int, size: float) -> dict[str, Chosen]:
    place = f"{number}x{size:g}" if number else "cpu"
    name = _NOT_NAME.sub("-", f"{(facts.slug or Path(facts.model).name).lower()}-{algorithm.name}-{place}").strip("-._")
    return {
        "run.name": Chosen(name[:80], "model, algorithm and the GPUs that it was written for"),
        "model.path": Chosen(facts.model, facts.note or plan.method_why),
        "algorithm.name": Chosen(algorithm.name, "asked for"),
    }


def _work(algorithm: Algorithm, task: Task, dataset: str, reward: str) -> dict[str, Chosen]:
    """Data and reward: those that were asked for, else those of the task."""
    judged = algorithm.lesson in JUDGED_LESSONS
    field = "judged" if judged else BY_LESSON.get(algorithm.lesson, "")
    if algorithm.lesson == "labeled" and task.name == "tiny":
        dataset = dataset or "reverse3-labeled"
    if not dataset and not field and algorithm.kind == "sl":
        raise ConfigError(
            f"{algorithm.name} learns from {algorithm.lesson} rows, and oxRL ships none for {task.name}",
            "dataset",
            "name a dataset: a file, a folder, hub:<id> or a built-in one (oxrl datasets)",
        )
    name = dataset or str(getattr(task, field or "judged"))
    why = "two answers to each prompt, and which was preferred" if field == "pairs" else task.why
    found = {"data.train": Chosen(name, "asked for" if dataset else why)}
    held_out = task.holds_out if field in ("judged", "shown") else "test" if name == "ultrafeedback" else "eval"
    if not dataset and held_out:
        found["data.eval"] = Chosen([{"name": name, "split": held_out}], "held out: nothing of it is trained on")
    brings_its_own = "reward.name" in preset_for(algorithm, {}, lora=False).values()  # rlhf and rlaif
    if judged and (reward or not brings_its_own):
        found["reward.name"] = Chosen(reward or task.reward, "asked for" if reward else f"the judge of {name}")
    return found


def _written(
    text: str,
    facts: Facts,
    algorithm: str,
    plan: Plan,
    chosen: dict[str, Chosen],
    problems: list[Problem],
    ok: bool,
    home: Path,
    notes: list[str],
) -> GeneratedConfig:
    """The file below <home>/configs, named by its content: the same question gives the same file."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    folder = home / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{chosen['run.name'].value}-{digest}.yaml"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    return GeneratedConfig(
        config_id=path.name,
        path=str(path),
        model=facts.model,
        algorithm=algorithm,
        strategy=plan.memory.strategy,
        valid=ok,
        problems=problems,
        why=[Choice(key=key, value=str(value.value), reason=value.reason) for key, value in chosen.items()],
        notes=[*([facts.note] if facts.note else []), *notes],
        memory=plan.memory,
        config_yaml=text,
        next=f"oxrl train {path}" if ok else f"oxrl config validate {path}",
    )
