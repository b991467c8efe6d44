"""What this machine has, what it lacks, and the fix for each: `oxrl doctor` and the MCP tool `check_environment`.

Nothing heavy is imported: versions come from package metadata, GPUs from nvidia-smi, and the deep checks (one real step
of Ray, DeepSpeed and vLLM) run in processes of their own with a deadline.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from oxrl_core.config.machine import Gpu, find_gpus, is_offline, this_machine
from oxrl_core.errors import MachineError, RewardError
from oxrl_core.rewards.sandbox.fast import FastTier
from oxrl_core.rewards.sandbox.level import require
from oxrl_core.rewards.sandbox.pool import Sandbox
from oxrl_core.runs.machine.deep import check_deep
from oxrl_core.runs.machine.packages import (
    ENVIRONMENT_SCRIPT,
    accepts,
    check_packages,
    check_traps,
    installed_profile,
    tested_versions,
)
from oxrl_core.runs.rundir import oxrl_home
from oxrl_core.runs.views import EnvironmentItem, EnvironmentReport

MIN_MEMORY_GIB = 4.0  # the demo's driver, learner and sampler together take about 3
MIN_DISK_GIB = 2.0  # checkpoints and rollouts of the demo are small; the venv is there already


def check_environment(deep: bool = False) -> EnvironmentReport:
    """What this machine has and lacks, each with its fix; `deep` also runs one step of Ray, DeepSpeed and vLLM."""
    profile = installed_profile()
    gpus = find_gpus()
    items = [
        *check_system(),
        *check_gpus(gpus),
        *check_packages(profile),
        *check_traps(profile, len(gpus)),
        *check_access(),
        check_sandbox(),
    ]
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


def check_sandbox() -> EnvironmentItem:
    """How strongly the code that models write is held here; only the code reward needs it."""
    sandbox = Sandbox()
    try:
        level = sandbox.level
        require(level)
    except RewardError as error:
        return EnvironmentItem(
            group="system",
            name="sandbox",
            ok=False,
            value=f"the code reward cannot run: {error.what}",
            fix=error.next_step,
        )
    finally:
        sandbox.close()
    fast = FastTier()
    tier = fast.describe()
    fast.close()
    # Without protection it says so, also where the operator has allowed it.
    return EnvironmentItem(
        group="system",
        name="sandbox",
        ok=level.name != "none",
        value=f"code of models: {level}; {tier}",
        fix="allow user namespaces and seccomp, or use Linux 5.13 or later",
    )


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
    if is_offline():
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
