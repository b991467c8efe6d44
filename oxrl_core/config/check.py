"""What a configuration needs, and whether it is there, before anything heavy is loaded.

Data is read with the loader of the run itself; of the model only config.json, the headers of its safetensors and its
tokenizer.json are read. Sizes are estimates and say so; what is certain to fail is an error, what may is a warning.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, computed_field

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.config.deepspeed import resolve_precision, resolve_zero_stage
from oxrl_core.config.explain import planned_steps
from oxrl_core.config.load import model_entry, registry_folder
from oxrl_core.config.machine import GIB, Machine, this_machine
from oxrl_core.config.rules import find_contradictions
from oxrl_core.config.schema import Config, DatasetConfig
from oxrl_core.errors import OxrlError
from oxrl_core.suggest import did_you_mean
from oxrl_core.types import Row

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$|^[\w-][\w.-]*$")
BIG_FILE_BYTES = 256 * 1024**2  # above it only the first rows of a file are read
FIRST_ROWS = 1000
MAX_TOKENIZED_ROWS = 2000
MAX_WORKERS_PER_CORE = 8
CONNECT_SECONDS = 3.0
PROCESS_GIB = 1.2  # a Python process with torch, and transformers with DeepSpeed or vLLM: 0.9 to 1.4 measured
RAY_GIB = 0.8  # Ray's own daemons and the driver
BYTES_PER_ROLLOUT_TOKEN = 16  # of a recorded rollout: ids, two log-probs, mask, compressed

# `miniature:chars` reads one character per token; the other miniatures have byte tokens and merges of two bytes.
CHARS_CONTEXT = 64
CHARS_PARAMETERS = 400_000


class Problem(BaseModel):
    """Something that is missing or cannot work, where, and what to do."""

    model_config = ConfigDict(frozen=True)

    code: str
    where: str
    what: str
    next: str
    severity: Literal["error", "warning"] = "error"


class Requirements(BaseModel):
    """What a run takes, and what stands in its way."""

    gpus: int = 0
    """GPUs that it will use; 0: it runs on the CPU."""
    cpu_workers: int = 0
    """Worker processes."""
    memory_gib: float = 0.0
    """Host memory of all processes together (estimate)."""
    gpu_memory_gib: float = 0.0
    """Memory of the fullest GPU (estimate); 0 on the CPU."""
    disk_gib: float = 0.0
    """Disk for checkpoints, the final model, rollouts and downloads (estimate)."""
    num_parameters: int | None = None
    """Parameters of the model; None where they are not known before the download."""
    num_rows: int | None = None
    """Training rows of an epoch; None where they are not known before the download."""
    steps: int | None = None
    """Steps of the run; None where they follow from unknown rows."""
    downloads: list[str] = []
    """What will be fetched from the hub unless it is in the cache."""
    ports: list[str] = []
    """Addresses that the run connects to."""
    problems: list[Problem] = []
    """Errors, then warnings."""

    @computed_field
    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way."""
        return not any(problem.severity == "error" for problem in self.problems)


@dataclass
class _Model:
    """What is known about a model without loading it."""

    num_parameters: int | None = None
    context: int | None = None  # positions that it can read
    layers: int | None = None
    hidden: int | None = None
    least_tokens: Callable[[str], int] | None = None  # at least so many tokens is a text
    download_bytes: float = 0.0


@dataclass
class _Data:
    """Rows that could be read."""

    train: list[Row] = field(default_factory=list[Row])
    eval: list[Row] = field(default_factory=list[Row])
    num_rows: int | None = 0


class _Checker:
    """One check in progress: what was found, and what is wrong."""

    def __init__(self, config: Config, home: Path, machine: Machine) -> None:
        self.config = config
        self.home = home
        self.machine = machine
        self.problems: list[Problem] = []
        self.downloads: list[str] = []
        self.kind = get_algorithm(config.algorithm.name).kind
        self.on_cluster = config.run.backend == "ray" and config.run.ray_address is not None
        self.num_samplers = config.rollout.num_workers if self.kind == "rl" else 0

    def error(self, code: str, where: str, what: str, next_step: str) -> None:
        self.problems.append(Problem(code=code, where=where, what=what, next=next_step))

    def warning(self, code: str, where: str, what: str, next_step: str) -> None:
        self.problems.append(Problem(code=code, where=where, what=what, next=next_step, severity="warning"))

    def caught(self, error: OxrlError, where: str) -> None:
        self.error(type(error).__name__, error.where or where, error.what, error.next_step)

    def run(self) -> Requirements:
        for contradiction in find_contradictions(self.config):
            self.error("ConfigError", contradiction.key, contradiction.reason, contradiction.fix)
        gpus = self._gpus()
        self._packages()
        ports = self._ports()
        self._reward()
        model = self._model()
        data = self._data()
        self._lengths(model, data)
        steps = planned_steps(self.config, data.num_rows)
        self._warmup(steps)
        memory, gpu_memory = self._memory(model, gpus)
        disk = self._disk(model, steps)
        self.problems.sort(key=lambda problem: problem.severity)  # stable: errors before warnings
        return Requirements(
            gpus=gpus,
            cpu_workers=self.config.train.num_workers + self.num_samplers,
            memory_gib=round(memory, 1),
            gpu_memory_gib=round(gpu_memory, 1),
            disk_gib=round(disk, 2),
            num_parameters=model.num_parameters,
            num_rows=data.num_rows,
            steps=steps,
            downloads=self.downloads,
            ports=ports,
            problems=self.problems,
        )

    # --- machine -----------------------------------------------------------------------------------------------------
    def _gpus(self) -> int:
        """GPUs that the run uses; complains where it asks for more than there are."""
        config, there = self.config, len(self.machine.gpu_memory_gib)
        per_sampler = config.rollout.tensor_parallel
        learners, samplers = config.train.num_workers, self.num_samplers
        colocated = config.rollout.colocate and samplers > 0
        asked = learners if colocated else learners + samplers * per_sampler
        if config.run.backend == "local":
            asked = 1  # one process, one device
        if self.on_cluster:
            return asked  # the cluster is asked when the run starts: this machine's GPUs say nothing about it
        if there == 0:
            wishes = {
                "rollout.tensor_parallel": per_sampler > 1 and samplers > 0,
                "deepspeed.offload_optimizer": config.deepspeed.offload_optimizer,
                "deepspeed.offload_params": config.deepspeed.offload_params,
                "model.attention": config.model.attention == "flash_attention_2",
            }
            keys = [key for key, wish in wishes.items() if wish]
            if keys:
                self.error(
                    "MachineError",
                    ", ".join(keys),
                    f"asks for GPUs; this machine has 0 GPUs and {self.machine.cpus} CPU cores",
                    "take these settings back to train on the CPU, or name a cluster with GPUs in run.ray_address",
                )
            workers = learners + samplers
            if workers > MAX_WORKERS_PER_CORE * self.machine.cpus:
                self.error(
                    "MachineError",
                    "train.num_workers, rollout.num_workers",
                    f"asked are {workers} workers; this machine has {self.machine.cpus} CPU cores and no GPU",
                    "ask for fewer workers, or name a cluster with GPUs in run.ray_address",
                )
            elif workers > self.machine.cpus:
                self.warning(
                    "slow",
                    "train.num_workers, rollout.num_workers",
                    f"{workers} workers share {self.machine.cpus} CPU cores (this machine has no GPU)",
                    f"{self.machine.cpus} workers or fewer are faster",
                )
            return asked if keys else 0
        if asked > there:
            parts = f"{learners} for the learner" + (f", {asked - learners} for the sampler" if samplers else "")
            self.error(
                "MachineError",
                "train.num_workers, rollout.num_workers, rollout.tensor_parallel",
                f"asked are {asked} GPUs ({parts}); this machine has {there}",
                "ask for fewer workers, set rollout.colocate: true, or name a cluster in run.ray_address",
            )
        return asked

    def _packages(self) -> None:
        """The packages that the run's processes import; they run in this very environment."""
        config = self.config
        needed = {"torch": "train", "transformers": "train", "deepspeed": "train"}
        if config.run.backend == "ray":
            needed["ray"] = "train"
        missing = [name for name in needed if find_spec(name) is None]
        if missing:
            self.error(
                "MachineError",
                "this Python environment",
                f"{', '.join(missing)} not installed: this is the light core, which cannot train",
                'install oxrl[cpu] or oxrl[gpu], for example: uv pip install "oxrl[cpu]"',
            )
        if self.kind == "rl" and config.rollout.engine == "vllm" and find_spec("vllm") is None:
            self.error(
                "MachineError",
                "rollout.engine",
                "vLLM is not installed",
                "install oxrl[cpu] or oxrl[gpu], or set rollout.engine: auto, which takes transformers where it lacks",
            )
        if config.model.attention == "flash_attention_2" and find_spec("flash_attn") is None:
            self.error(
                "MachineError",
                "model.attention",
                "flash_attention_2 needs the package flash-attn, which is not installed",
                "set model.attention: sdpa, or install flash-attn",
            )

    def _ports(self) -> list[str]:
        """Addresses that the run meets others at. Its own ports are chosen free when it starts."""
        config = self.config
        used: list[str] = []
        if config.run.backend == "ray" and config.run.ray_address:
            address = config.run.ray_address.removeprefix("ray://")
            used.append(address)
            host, _, port = address.rpartition(":")
            if port.isdigit():
                try:
                    socket.create_connection((host or "127.0.0.1", int(port)), timeout=CONNECT_SECONDS).close()
                except (OSError, OverflowError) as error:
                    self.error(
                        "PlacementError",
                        f"run.ray_address = {config.run.ray_address}",
                        f"nothing answers there: {error}",
                        "start the cluster (ray start --head --port=6379), mend the address, or remove it",
                    )
        port = os.environ.get("MASTER_PORT", "")
        if port.isdigit() and config.run.backend == "local" and "RANK" not in os.environ:
            used.append(f"127.0.0.1:{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", int(port)))
                except (OSError, OverflowError) as error:
                    self.error(
                        "MachineError", f"MASTER_PORT = {port}", f"the port is taken: {error}", "unset MASTER_PORT"
                    )
        return used

    def _reward(self) -> None:
        if self.kind != "rl":
            return
        from oxrl_core.rewards.base import get_reward

        try:
            get_reward(self.config.reward.name)
        except OxrlError as error:
            self.caught(error, "reward.name")

    # --- model -------------------------------------------------------------------------------------------------------
    def _model(self) -> _Model:
        path = self.config.model.path
        where = f"model.path = {path}"
        entry = model_entry(path)
        if path == "miniature:chars":
            return _Model(CHARS_PARAMETERS, CHARS_CONTEXT, 2, 128, least_tokens=len)
        if path.startswith("miniature:"):
            if entry is None:
                names = ["chars", *(file.stem for file in sorted((registry_folder() / "models").glob("*.yaml")))]
                slug = path.removeprefix("miniature:")
                what = f"there is no miniature of that name.{did_you_mean(slug, names)}"
                self.error("ModelError", where, what, f"take one of: {', '.join(names)}")
                return _Model()
            context = _context(cast("dict[str, Any]", entry[1].get("architecture") or {}))
            return _Model(250_000, context, 2, 64, least_tokens=lambda text: len(text.encode()) // 2)
        if path.startswith("run:"):
            return self._model_of_run(path.removeprefix("run:"), where)
        folder = Path(path).expanduser()
        if folder.is_dir():
            return self._model_folder(folder, where)
        if path.startswith(("/", ".", "~")) or not HUB_ID.match(path):
            parent = folder.parent
            near = did_you_mean(folder.name, [p.name for p in parent.iterdir()]) if parent.is_dir() else ""
            self.error("ModelError", where, f"the model folder does not exist.{near}", "give a folder or a hub id")
            return _Model()
        return self._hub_model(path, entry[1] if entry else None, where)

    def _model_of_run(self, run_id: str, where: str) -> _Model:
        runs = self.home / "runs"
        final = runs / run_id / "final"
        if run_id and final.is_dir():
            return self._model_folder(final, where)
        if run_id and (runs / run_id).is_dir():
            self.error(
                "ModelError", where, "that run has no final weights yet", f"wait for it: oxrl run watch {run_id}"
            )
        else:
            known = [folder.name for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
            near = did_you_mean(run_id, known)
            self.error("ModelError", where, f"there is no run of that id.{near}", "oxrl run list names them")
        return _Model()

    def _model_folder(self, folder: Path, where: str) -> _Model:
        """A local model, read from its JSON and the headers of its weights."""
        try:
            facts = cast("dict[str, Any]", json.loads((folder / "config.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            self.error("ModelError", where, "the folder has no config.json", "give the folder of a Hugging Face model")
            return _Model()
        except (OSError, ValueError) as error:
            self.error("ModelError", where, f"its config.json cannot be read: {error}", "download the model again")
            return _Model()
        text = cast("dict[str, Any]", facts.get("text_config") or facts)
        weights = sorted(folder.glob("*.safetensors"))
        count: int | None = None
        if not weights:
            self.error(
                "ModelError", where, "the folder has no safetensors weights", "convert them: no pickle is ever loaded"
            )
        else:
            try:
                count = sum(count_parameters(file) for file in weights)
            except (OSError, ValueError) as error:
                self.error("ModelError", where, f"its weights are torn: {error}", "download or export them again")
        tokenizer = folder / "tokenizer.json"
        if not tokenizer.is_file() and not any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json")):
            self.error(
                "ModelError", where, "the folder has no tokenizer", "copy tokenizer.json and its config beside it"
            )
        counter: Callable[[str], int] | None = None
        try:
            counter = _token_counter(tokenizer)
        except ValueError as error:
            self.error("ModelError", where, str(error), "download or export the model again")
        return _Model(
            num_parameters=count,
            context=_context(text),
            layers=text.get("num_hidden_layers"),
            hidden=text.get("hidden_size"),
            least_tokens=counter,
        )

    def _hub_model(self, hub_id: str, entry: dict[str, Any] | None, where: str) -> _Model:
        """A model of the hub: from the cache where it is there, else from the registry's facts."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(hub_id, "config.json", revision=self.config.model.revision)
        if isinstance(cached, str):
            folder = Path(cached).parent
            if any(folder.glob("*.safetensors")):
                return self._model_folder(folder, where)
        self.downloads.append(hub_id)
        if _is_offline():
            self.error(
                "ModelError",
                where,
                "neither a folder nor in the cache, and HF_HUB_OFFLINE forbids to download it",
                "unset HF_HUB_OFFLINE, or give a local folder",
            )
        if entry is None:
            self.warning(
                "unknown-model",
                where,
                "no folder of that name: it will be looked up on the hub; its size is not known before",
                "check the spelling, or give a local folder",
            )
            return _Model()
        facts = cast("dict[str, Any]", entry.get("architecture") or {})
        count = cast("int | None", entry.get("parameters"))
        return _Model(
            num_parameters=count,
            context=_context(facts),
            layers=facts.get("num_hidden_layers"),
            hidden=facts.get("hidden_size"),
            download_bytes=2.0 * (count or 0),
        )

    # --- data --------------------------------------------------------------------------------------------------------
    def _data(self) -> _Data:
        data = _Data()
        counts: list[int | None] = []
        for index, source in enumerate(self.config.data.train):
            rows, count = self._rows(source, f"data.train.{index}")
            data.train += rows
            counts.append(count)
        for index, source in enumerate(self.config.data.eval):
            rows, _ = self._rows(source, f"data.eval.{index}")
            data.eval += rows
        known = [count for count in counts if count is not None]
        data.num_rows = sum(known) if len(known) == len(counts) else None
        self._columns(data.train, "data.train")
        self._columns(data.eval, "data.eval")
        held_out = {_text(row["prompt"]) for row in data.eval}
        shared = held_out & {_text(row["prompt"]) for row in data.train}
        if shared:
            self.warning(
                "leak",
                "data.eval",
                f"{len(shared)} of {len(held_out)} held-out prompts are also training prompts",
                "choose another split or file, else the evaluation measures memory",
            )
        return data

    def _rows(self, source: DatasetConfig, where: str) -> tuple[list[Row], int | None]:
        """The rows as the run will read them, and how many there are (None: not known before the download)."""
        from oxrl_core.datasets.base import load_rows

        if source.name.startswith("hub:") or (source.name == "gsm8k" and not os.environ.get("OXRL_GSM8K_DIR")):
            self.downloads.append(source.name)
            if find_spec("datasets") is None:
                self.error("MachineError", where, "hub datasets need the package datasets", 'install "oxrl[train]"')
            elif _is_offline():
                self.warning(
                    "offline",
                    where,
                    f"{source.name} comes from the hub, and HF_HUB_OFFLINE forbids to download it",
                    "it must be in the cache already; or name a local file",
                )
            return [], source.limit
        path = Path(source.name).expanduser()
        is_cut = source.limit is None and path.is_file() and path.stat().st_size > BIG_FILE_BYTES
        try:
            rows = load_rows(
                source.model_copy(update={"limit": FIRST_ROWS}) if is_cut else source, self.config.run.seed
            )
        except OxrlError as error:
            self.caught(error, f"{where} = {source.name}")
            return [], None
        except OSError as error:
            self.error("DataError", f"{where} = {source.name}", f"cannot be read: {error}", "check its permissions")
            return [], None
        if not rows:
            self.error(
                "DataError", f"{where} = {source.name}", "the dataset is empty", "check its file, split and limit"
            )
        return rows, None if is_cut else len(rows)

    def _columns(self, rows: Sequence[Row], where: str) -> None:
        """Whether the rows hold what this kind of training looks at."""
        if not rows:
            return
        if self.kind == "sl":
            lacking = [row["id"] for row in rows if not row.get("completion")]
            if lacking:
                self.error(
                    "DataError",
                    where,
                    f"{len(lacking)} of {len(rows)} rows have no completion to learn from, first {lacking[0]}",
                    "name its column in completion_column, or remove these rows",
                )
        elif not any(row.get("answer") for row in rows):
            is_own = ":" in self.config.reward.name  # it may need no reference
            (self.warning if is_own else self.error)(
                "DataError",
                where,
                f"no row has a reference answer for the reward '{self.config.reward.name}' to compare with",
                "name its column in answer_column" + (", unless the reward needs none" if is_own else ""),
            )

    def _lengths(self, model: _Model, data: _Data) -> None:
        """Whether prompts and examples fit into the limits of the config and of the model."""
        if self.kind == "rl":
            most = self.config.rollout.max_completion_tokens
            if model.context is not None and most >= model.context:
                self.error(
                    "ConfigError",
                    "rollout.max_completion_tokens",
                    f"a completion of {most} tokens leaves a prompt no room: the model reads {model.context} tokens",
                    f"set it well below {model.context}",
                )
                return
            self._fit(
                data.train, "data.train", model, "data.max_prompt_tokens", self.config.data.max_prompt_tokens, most
            )
            self._fit(data.eval, "data.eval", model, "data.max_prompt_tokens", self.config.data.max_prompt_tokens, most)
        else:
            self._fit(data.train, "data.train", model, "data.max_length", self.config.data.max_length, 0)
            self._fit(data.eval, "data.eval", model, "data.max_length", self.config.data.max_length, 0)

    def _fit(self, rows: Sequence[Row], where: str, model: _Model, key: str, limit: int, room: int) -> None:
        count = model.least_tokens
        if count is None or not rows:
            return
        what = "prompts" if self.kind == "rl" else "examples"
        sizes = _token_counts(rows, self.kind, count, limit, (model.context or limit) - room)
        long = [size for size in sizes if size > limit]
        is_error = bool(long) and (self.config.data.overlong == "error" or len(long) == len(rows))
        if long:
            (self.error if is_error else self.warning)(
                "DataError",
                where,
                f"{len(long)} of {len(rows)} {what} have more than {key} = {limit} tokens (the longest {max(long)})"
                + ("" if is_error else "; they are dropped"),
                f"raise {key}" + ("" if is_error else ", unless that is meant"),
            )
        kept = [size for size in sizes if size <= limit]
        if model.context is not None and kept and max(kept) + room > model.context:
            self.error(
                "ConfigError",
                where,
                f"a {what[:-1]} of {max(kept)} tokens"
                + (f" and a completion of {room}" if room else "")
                + f" do not fit into the model, which reads {model.context} tokens",
                f"set {key} to at most {max(1, model.context - room)}"
                + (", or lower rollout.max_completion_tokens" if room else ""),
            )

    def _warmup(self, steps: int | None) -> None:
        train = self.config.train
        if steps is not None and train.warmup_steps > steps * train.updates_per_step:
            self.warning(
                "warm-up",
                "train.warmup_steps",
                f"the run ends after {steps * train.updates_per_step} updates, within its warm-up of "
                f"{train.warmup_steps}: the learning rate never reaches train.lr",
                "lower train.warmup_steps, unless this is a short trial",
            )

    # --- sizes -------------------------------------------------------------------------------------------------------
    def _memory(self, model: _Model, gpus: int) -> tuple[float, float]:
        """Estimated host memory of all processes, and of the fullest GPU."""
        config = self.config
        workers = config.train.num_workers + self.num_samplers
        processes = PROCESS_GIB * workers if config.run.backend == "ray" else PROCESS_GIB * 1.5
        host = processes + (RAY_GIB if config.run.backend == "ray" else 0.0)
        if model.num_parameters is None:
            return host, 0.0
        learner, optimizer = self._learner_bytes(model, gpus > 0)
        sampler = model.num_parameters * (4 if resolve_precision(config, on_gpu=gpus > 0) == "float32" else 2)
        if gpus == 0:
            caches = (
                self.num_samplers * config.rollout.cpu_kv_cache_gib if config.rollout.engine != "transformers" else 0
            )
            # The weights that are handed over exist once more, in float32, between learner and sampler.
            handover = 4 * model.num_parameters if self.num_samplers else 0
            total = config.train.num_workers * (learner + optimizer) + self.num_samplers * sampler + handover
            host += total / GIB + caches
            self._compare_memory(host)
            return host, 0.0
        host += config.train.num_workers * optimizer / GIB if config.deepspeed.offload_optimizer else 0.0
        on_gpu = learner + (0 if config.deepspeed.offload_optimizer else optimizer)
        if not self.on_cluster and self.machine.gpu_memory_gib:
            smallest = min(self.machine.gpu_memory_gib)
            if smallest and on_gpu / GIB > smallest:
                self.error(
                    "MachineError",
                    "train.num_workers, deepspeed.zero_stage",
                    f"a training rank needs about {on_gpu / GIB:.1f} GiB; this machine's GPUs have {smallest:.0f} GiB",
                    "use more ranks with deepspeed.zero_stage: 3, model.lora.enabled, "
                    "model.gradient_checkpointing, or deepspeed.offload_optimizer",
                )
        return host, on_gpu / GIB

    def _learner_bytes(self, model: _Model, on_gpu: bool) -> tuple[float, float]:
        """Bytes of one rank: weights, gradients and activations; and optimizer state with the float32 masters."""
        config = self.config
        count, ranks = float(model.num_parameters or 0), config.train.num_workers
        precision = resolve_precision(config, on_gpu=on_gpu)
        stage = resolve_zero_stage(config, precision)
        width = 4 if precision == "float32" else 2
        # Adapters on every linear layer: about rank x (in + out) of in x out weights each.
        share = min(1.0, 2.0 * config.model.lora.rank / (model.hidden or 1024)) if config.model.lora.enabled else 1.0
        weights = count * width / (ranks if stage == 3 else 1)
        gradients = count * share * 4 / (ranks if stage >= 2 else 1)
        # Two moments; and a master copy, which ZeRO keeps for float32 weights as well.
        optimizer = count * share * (8 + (4 if stage >= 1 else 0)) / (ranks if stage >= 1 else 1)
        if config.algorithm.kl_coef > 0 and not config.model.lora.enabled:
            weights *= 2  # the reference
        activations = 0.0
        if model.layers and model.hidden:
            per_token = model.layers * model.hidden * width * (2 if config.model.gradient_checkpointing else 17)
            activations = per_token * min(config.train.micro_batch_tokens, self._tokens_of_rank())
        return weights + gradients + activations, optimizer

    def _tokens_of_rank(self) -> int:
        """Most tokens that one rank sees in a step."""
        config = self.config
        if self.kind == "rl":
            rows = config.train.prompts_per_step * config.rollout.group_size
            longest = config.data.max_prompt_tokens + config.rollout.max_completion_tokens
        else:
            rows, longest = config.train.rows_per_step, config.data.max_length
        return max(1, rows // config.train.num_workers) * longest

    def _compare_memory(self, needed: float) -> None:
        if self.on_cluster:
            return
        where = "train.num_workers, rollout.num_workers, model.path"
        if needed > self.machine.memory_gib:
            self.error(
                "MachineError",
                where,
                f"needs about {needed:.1f} GiB of memory; this machine has {self.machine.memory_gib:.1f} GiB",
                "fewer workers, model.lora.enabled, a smaller train.micro_batch_tokens, or a smaller model",
            )
        elif needed > self.machine.free_memory_gib:
            self.warning(
                "memory",
                where,
                f"needs about {needed:.1f} GiB of memory; {self.machine.free_memory_gib:.1f} GiB are free now",
                "end other programs, or use fewer workers",
            )

    def _disk(self, model: _Model, steps: int | None) -> float:
        """Estimated GiB below the runs' folder; complains where they are not free."""
        config = self.config
        count = float(model.num_parameters or 0)
        share = min(1.0, 2.0 * config.model.lora.rank / (model.hidden or 1024)) if config.model.lora.enabled else 1.0
        # A checkpoint: float32 masters and two moments of what is trained. One more than is kept, while it is written.
        checkpoints = (config.train.keep_checkpoints + 1) * count * share * 12
        rollouts = 0.0
        if self.kind == "rl" and config.rollout.record and steps is not None:
            tokens = min(config.data.max_prompt_tokens, 256) + config.rollout.max_completion_tokens / 2
            rollouts = (
                steps * config.train.prompts_per_step * config.rollout.group_size * tokens * BYTES_PER_ROLLOUT_TOKEN
            )
        needed = (checkpoints + count * 4 + rollouts + model.download_bytes) / GIB + 0.05
        if needed > self.machine.free_disk_gib:
            self.error(
                "MachineError",
                str(self.home),
                f"needs about {needed:.2f} GiB of disk; {self.machine.free_disk_gib:.2f} GiB are free",
                "free some, set OXRL_HOME to a larger disk, lower train.keep_checkpoints, or rollout.record: false",
            )
        return needed


def check_config(config: Config, *, home: Path, machine: Machine | None = None) -> Requirements:
    """What the configuration takes on this machine (or the given one), and every problem that shows beforehand."""
    return _Checker(config, home, machine or this_machine(home)).run()


def count_parameters(file: Path) -> int:
    """Number of weights in a safetensors file, from its header alone."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length < 100_000_000:
            raise ValueError(f"{file.name} is no safetensors file")
        header = cast("dict[str, Any]", json.loads(stream.read(length)))
    end, total = 0, 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        size = 1
        for dimension in cast("list[int]", entry["shape"]):
            size *= dimension
        total += size
        end = max(end, cast("list[int]", entry["data_offsets"])[1])
    if file.stat().st_size < 8 + length + end:
        raise ValueError(f"{file.name} ends after {file.stat().st_size:,} of {8 + length + end:,} bytes")
    return total


def _context(architecture: dict[str, Any]) -> int | None:
    value = architecture.get("max_position_embeddings")
    return value if isinstance(value, int) else None


def _token_counter(tokenizer_file: Path) -> Callable[[str], int] | None:
    """Counts a text's tokens without a chat template, so at least so many come; None where that is not possible."""
    if not tokenizer_file.is_file() or find_spec("tokenizers") is None:
        return None
    from tokenizers import Tokenizer

    # Its type stubs leave the encoder untyped.
    load = cast("Callable[[str], Any]", Tokenizer.from_file)  # pyright: ignore[reportUnknownMemberType]
    try:
        tokenizer = load(str(tokenizer_file))
    except Exception as error:  # the Rust parser raises nothing narrower
        raise ValueError(f"{tokenizer_file.name} is no tokenizer: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _token_counts(rows: Sequence[Row], kind: str, count: Callable[[str], int], limit: int, fits: int) -> list[int]:
    """At least so many tokens has each row; only texts that could be too long are tokenized."""
    sizes: list[int] = []
    tokenized = 0
    for row in rows:
        text = _text(row["prompt"]) + (str(row.get("completion") or "") if kind == "sl" else "")
        if len(text.encode()) <= min(limit, fits):  # a token is at least one byte
            sizes.append(0)
            continue
        tokenized += 1
        sizes.append(count(text) if tokenized <= MAX_TOKENIZED_ROWS else 0)
    return sizes


def _text(prompt: object) -> str:
    if isinstance(prompt, str):
        return prompt
    messages = cast("Sequence[dict[str, str]]", prompt)
    return "\n".join(str(message.get("content", "")) for message in messages)


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
