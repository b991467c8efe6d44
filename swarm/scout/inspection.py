"""One model, looked at whole: facts, risks, memory, failures to expect, verdict."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

from oxrl_core.config.machine import GIB, find_gpus, is_offline
from oxrl_core.config.registry import known_entry
from oxrl_core.errors import ConfigError, ModelError
from swarm.scout.facts import Facts, registry_facts, source_facts
from swarm.scout.hub import HubError, HubSource
from swarm.scout.planning import Wish, plan_training
from swarm.scout.source import Budget, FolderSource, OutOfTime
from swarm.scout.tasks import propose
from swarm.scout.verdict import decide, find_problems
from swarm.scout.views import MemoryView, ModelProblem, ModelReport

SECONDS = 4.5  # for one model, all in all
SCAN_SECONDS = 120.0  # transformers is imported in a process of its own
MAX_NAME = 300

Detail = Literal["brief", "full"]


def inspect_model(
    model: str, gpus: int = -1, gpu_memory_gib: float = 0.0, detail: Detail = "brief", revision: str = ""
) -> ModelReport:
    """What the model is, what it would take, and whether it can be trained: no weight is read, no code of it is run.

    `gpus` -1: those of this machine. `detail` full: its linear layers are also named from its empty architecture.
    """
    started = time.monotonic()
    number, size = gpus_at_hand(gpus, gpu_memory_gib)
    try:
        facts = look_at(model, revision)
    except HubError as error:
        if error.code in ("missing",):
            raise
        return _refused(model, error, started)
    memory = memory_of(facts, number, size)
    problems = find_problems(facts, memory)
    if detail == "full":
        _scan_layers(facts)
    verdict, reasons = decide(facts, problems)
    repository = facts.repository
    chosen = next((view for view in memory if view.fits), None)
    return ModelReport(
        model=facts.model,
        source=facts.place,
        source_note=facts.note,
        revision=repository.revision,
        architecture=facts.architecture,
        model_type=facts.model_type,
        parameters=facts.parameters,
        parameters_from=facts.parameters_from,
        dtype=facts.weights.dtype or _dtype(facts.config),
        context=facts.context,
        vocabulary=facts.shape.vocabulary if facts.shape else None,
        modality=facts.modality,
        license=repository.license,
        gated=repository.gated,
        downloads=repository.downloads,
        tags=repository.tags,
        weights_gib=round(facts.weights.bytes / GIB, 3) if facts.weights.bytes else None,
        bos=facts.tokens.get("bos", ""),
        eos=facts.tokens.get("eos", ""),
        pad=facts.tokens.get("pad", ""),
        chat_template=facts.template,
        support=facts.support,
        lora_targets=facts.lora_targets[:24],
        lora_targets_from=facts.lora_from,
        proposals=propose(facts),
        memory=memory,
        strategy=chosen.strategy if chosen else "",
        risks=facts.risks,
        problems=problems,
        verdict=verdict,
        reasons=reasons,
        seconds=round(time.monotonic() - started, 2),
        next=f"oxrl config generate {facts.model}" if verdict != "no" else "oxrl scout --search (another model)",
    )


def gpus_at_hand(gpus: int, gpu_memory_gib: float) -> tuple[int, float]:
    """Number and GiB of the GPUs to plan for; the least of this machine's where nothing is said."""
    if gpus > 1024 or gpu_memory_gib < 0 or gpu_memory_gib > 4096:
        raise ConfigError(f"{gpus} GPUs of {gpu_memory_gib:g} GiB", "gpus", "at most 1024 GPUs of 4096 GiB")
    if gpus < 0:
        found = find_gpus()
        size = gpu_memory_gib or min((gpu.memory_gib for gpu in found), default=0.0)
        return (len(found), size) if size else (0, 0.0)
    if gpus and not gpu_memory_gib:
        there = [gpu.memory_gib for gpu in find_gpus()]
        if not there:
            raise ConfigError("nobody says how large the GPUs are", "gpu_memory_gib", "give their GiB, for example 80")
        gpu_memory_gib = min(there)
    return (gpus, gpu_memory_gib) if gpus else (0, 0.0)


def look_at(model: str, revision: str = "", seconds: float = SECONDS) -> Facts:
    """The facts, from a folder, the registry or the hub; offline, what the registry knows, and a note that says so."""
    if not model or len(model) > MAX_NAME or "\0" in model:
        raise ModelError("this is no name of a model", model[:40], "give a folder, owner/name, or miniature:<slug>")
    if model.startswith("miniature:"):
        return registry_facts(model, "a miniature: random small weights of the same architecture")
    folder = Path(model).expanduser()
    budget = Budget(seconds)
    if folder.is_dir():
        return source_facts(model, "folder", FolderSource(folder), budget)
    if model.startswith(("/", ".", "~")):
        raise ModelError("the model folder does not exist", model, "give a folder or a hub id")
    found = known_entry(model)
    if found and "/" not in model:
        model = str(found[1]["hub"])
    if is_offline():
        if found:
            return registry_facts(model, "offline (HF_HUB_OFFLINE): the registry's own facts, not the hub's")
        step = "unset HF_HUB_OFFLINE, or give a local folder"
        raise ModelError("it is not in the registry, and HF_HUB_OFFLINE forbids to ask the hub", model, step)
    try:
        return source_facts(model, "hub", HubSource(model, revision or None, budget), budget)
    except OutOfTime:
        if found:
            return registry_facts(model, "the hub did not answer in time: the registry's own facts")
        raise HubError(f"the hub did not answer within {seconds:g} s", model, "try again later") from None
    except HubError as error:
        if found and error.code in ("hub_down", "rate_limit"):
            return registry_facts(model, f"the registry's own facts: {error.what}")
        raise


def memory_of(facts: Facts, gpus: int, gpu_memory_gib: float) -> list[MemoryView]:
    """The memory plan of supervised training and of RL; empty where its sizes are unknown."""
    if facts.shape is None:
        return []
    supervised = Wish(gpus, gpu_memory_gib, draws=False, prompt_tokens=2048, completion_tokens=0)
    drawing = Wish(gpus, gpu_memory_gib, draws=True, prompt_tokens=512, completion_tokens=512)
    views: list[MemoryView] = []
    for label, wish in (("sft", supervised), ("rl", drawing)):
        view = plan_training(facts.shape, wish).memory
        views.append(view.model_copy(update={"strategy": f"{label}: {view.strategy}"}))
    return views


def _dtype(config: dict[str, Any]) -> str:
    value = config.get("dtype") or config.get("torch_dtype")
    return value if value in ("float32", "float16", "bfloat16") else ""


def _refused(model: str, error: HubError, started: float) -> ModelReport:
    """The report on a repository that nobody may look into."""
    problem = ModelProblem(code=error.code, severity="error", what=error.what, next=error.next_step)
    return ModelReport(
        model=model,
        source="hub",
        gated=True if error.code == "gated" else None,
        problems=[problem],
        verdict="no",
        reasons=[error.what],
        seconds=round(time.monotonic() - started, 2),
        next=error.next_step,
    )


def _scan_layers(facts: Facts) -> None:
    """Names the linear layers, and counts the parameters, from the empty architecture in a process of its own."""
    if facts.support.transformers is not True or any(risk.level == "block" for risk in facts.risks):
        return
    if facts.is_miniature:
        return
    try:
        answer = _scanned(json.dumps(facts.config), version("transformers"))
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        answer = {}
    if "linear" in answer:
        facts.lora_targets = [str(name) for name in cast("list[Any]", answer["linear"])]
        facts.lora_from = "the empty architecture"
        if facts.parameters is None:
            facts.parameters, facts.parameters_from = int(answer["parameters"]), "the empty architecture"
    else:
        facts.note = f"{facts.note} its architecture could not be built empty".strip()


@functools.lru_cache(16)
def _scanned(config: str, transformers: str) -> dict[str, Any]:
    """What the process says. Importing torch takes it ten seconds and more, and the same question has the same answer:
    of one configuration and one version of transformers."""
    done = subprocess.run(
        [sys.executable, "-m", "oxrl_core.models.scan"],
        input=config,
        capture_output=True,
        text=True,
        timeout=SCAN_SECONDS,
        check=False,
    )
    answer = json.loads(done.stdout.splitlines()[-1])  # nothing is said where it died, which is asked again
    return cast("dict[str, Any]", answer)
