"""How strong the sandbox is on kernels that lack something, and that it refuses where too little is left.

The kernels are real: a filter, which the fork server inherits, takes away what an older or stricter one lacks.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from oxrl_core.errors import RewardError
from oxrl_core.rewards.sandbox.level import Level, operator_file, unprotected_is_allowed
from oxrl_core.rewards.sandbox.pool import Deadline, Sandbox
from oxrl_core.runs.machine import doctor

TABLE = yaml.safe_load((Path(__file__).parent / "attack_table.yaml").read_text())
ON_A_LESSER_KERNEL = """
import errno, json, platform, struct, sys
from oxrl_core.errors import RewardError
from oxrl_core.rewards.base import get_reward
from oxrl_core.rewards.sandbox import locks
from oxrl_core.rewards.sandbox.pool import shared_sandbox
from oxrl_core.types import Prompt, Rollout

arm = platform.machine() == "aarch64"
numbers = {"namespaces": [97 if arm else 272], "landlock": [444, 445, 446], "seccomp": []}
program = [struct.pack("HBBI", 0x20, 0, 0, 0)]
for name in sys.argv[1:]:
    for number in numbers[name]:
        program += [struct.pack("HBBI", 0x15, 0, 1, number), struct.pack("HBBI", 6, 0, 0, 0x50000 | errno.EPERM)]
if "seccomp" in sys.argv:  # prctl(PR_SET_SECCOMP) answers as a kernel without filters does
    program += [struct.pack("HBBI", 0x15, 0, 3, 167 if arm else 157), struct.pack("HBBI", 0x20, 0, 0, 16),
                struct.pack("HBBI", 0x15, 0, 1, 22), struct.pack("HBBI", 6, 0, 0, 0x50000 | errno.EINVAL)]
program.append(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
assert locks.restrict_syscalls(b"".join(program))
row = {"tests": [{"function": "f", "args": [2], "expected": 4}]}
rollout = Rollout(Prompt("p", [], "", row=row), 0, [], [], "stop", 0, 0, "```python\\ndef f(n): return n * n\\n```")
verdict = get_reward("code", {"interpreter": False})(rollout)
sandbox = shared_sandbox()
print(json.dumps([sandbox.known and sandbox.known.name, verdict.status, verdict.detail]))
"""


def on_a_kernel_without(*names: str, **environment: str) -> list[str]:
    """Level, status and detail of a good program's verdict there."""
    done = subprocess.run(
        [sys.executable, "-c", ON_A_LESSER_KERNEL, *names],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("missing", "level"), [("namespaces", "standard"), ("landlock", "basic")])
def test_one_wall_less_is_a_lower_level(missing, level):
    assert on_a_kernel_without(missing) == [level, "ok", f"1 of 1 tests passed; sandbox: {level}"]


@pytest.mark.parametrize("missing", [["seccomp"], ["namespaces", "landlock"], ["namespaces", "landlock", "seccomp"]])
def test_too_little_is_refused_and_says_what_is_missing(missing):
    level, status, detail = on_a_kernel_without(*missing)
    assert (level, status) == ("none", "error")
    assert "cannot hold the code" in detail
    assert all(name in detail for name in missing)


def test_no_environment_variable_allows_it():
    tries = dict.fromkeys(("OXRL_ALLOW_UNPROTECTED", "OXRL_UNSAFE_EXEC", "OXRL_SANDBOX", "ALLOW_UNPROTECTED"), "1")
    assert on_a_kernel_without("seccomp", **tries)[1] == "error"


def test_the_operators_file_allows_it_and_the_verdict_says_so(oxrl_home_of_the_test):
    (oxrl_home_of_the_test / "operator.yaml").write_text("sandbox: {allow_unprotected: true}\n")
    (oxrl_home_of_the_test / "operator.yaml").chmod(0o600)
    assert on_a_kernel_without("seccomp") == ["none", "ok", "1 of 1 tests passed; sandbox: none"]


def test_no_parameter_of_the_reward_weakens_the_sandbox():
    from oxrl_core.rewards.base import get_reward

    assert set(get_reward("code").params) == {"partial", "seconds", "memory_mib", "interpreter"}


NOT_TRUE = ("sandbox: {}", *(f"sandbox: {{allow_unprotected: {value}}}" for value in ("false", "1", "'true'", "null")))


@pytest.mark.parametrize("text", ["", "sandbox: true", "[]", *NOT_TRUE])
def test_only_true_is_true(text):
    operator_file().write_text(text)
    operator_file().chmod(0o600)
    assert unprotected_is_allowed() is False


def test_a_file_that_others_can_write_is_no_operators_file():
    operator_file().write_text("sandbox: {allow_unprotected: true}")
    operator_file().chmod(0o666)
    with pytest.raises(RewardError, match="others can write"):
        unprotected_is_allowed()


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (Level(True, 7, True), "strong"),
        (Level(False, 1, True), "standard"),
        (Level(True, 0, True), "basic"),
        (Level(False, 0, True), "none"),
        (Level(True, 7, False), "none"),
        (Level(), "none"),
    ],
)
def test_the_name_of_a_level(level, name):
    assert level.name == name and str(level).startswith(name)


@pytest.mark.parametrize("name", TABLE["host"])
def test_the_host_stays_untouched_without_namespaces_too(name, canaries, standard_sandbox):
    program = canaries.fill(TABLE["host"][name])
    output = standard_sandbox.run_program(f"{program}\nprint(solve(1))", "", deadline=Deadline(10)).output.decode()
    assert canaries.secret not in output and "LEAK" not in output
    canaries.check()


@pytest.fixture(scope="module")
def standard_sandbox():
    made = Sandbox(namespaces=False)
    assert made.level.name == "standard"
    yield made
    made.close()


@pytest.mark.parametrize("name", ["read_ssh_key", "read_env_token", "list_host_procs", "subprocess"])
def test_without_a_sandbox_the_same_attacks_get_through(name, canaries):
    program = f"{canaries.fill(TABLE['host'][name])}\nprint(solve(1))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert canaries.secret in done.stdout or "LEAK" in done.stdout


def test_doctor_shows_the_level():
    item = doctor.check_sandbox()
    assert item.name == "sandbox" and item.ok
    assert any(level in item.value for level in ("strong", "standard", "basic"))
    assert "monty" in item.value or "no interpreter" in item.value


# ---- the fork server's life ----


def processes_of(sandbox: Sandbox) -> list[int]:
    """The fork server and all below it."""
    assert sandbox.process is not None
    found = [sandbox.process.pid]
    for parent in found:
        children = Path(f"/proc/{parent}/task/{parent}/children")
        found += [int(pid) for pid in children.read_text().split()] if children.exists() else []
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end and any(map(alive, pids)):
        time.sleep(0.02)
    assert not any(map(alive, pids))


def test_closing_ends_every_process():
    sandbox = Sandbox()
    assert sandbox.level.name != "none"
    with sandbox.solution("def f(): pass", deadline=Deadline(10)):
        pids = processes_of(sandbox)
        assert len(pids) >= 2
        sandbox.close()
    wait_until_gone(pids)


def test_a_fork_server_that_dies_is_an_error_once_and_started_again():
    sandbox = Sandbox()
    assert sandbox.level
    for pid in processes_of(sandbox):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(RewardError, match="fork server"), sandbox.solution("x = 1", deadline=Deadline(5)):
        pass
    with sandbox.solution("x = 1", deadline=Deadline(5)) as (_, said):
        assert said == ["ready"]
    sandbox.close()


def test_no_process_outlives_a_judge_that_is_killed():
    program = (
        "from oxrl_core.rewards.sandbox.pool import *\n"
        "sandbox = Sandbox(); sandbox.level\n"
        "with sandbox.solution('def f():\\n while True: pass', deadline=Deadline(100)) as (run, said):\n"
        "    print(sandbox.process.pid, flush=True); run.call('f', [], {})\n"
    )
    judge = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert judge.stdout is not None
    pids = [int(judge.stdout.readline())]
    for parent in pids:
        pids += [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    assert len(pids) >= 2
    judge.kill()
    judge.wait(timeout=10)
    wait_until_gone(pids)


def test_it_outlives_the_thread_that_started_it():
    sandbox = Sandbox()
    thread = threading.Thread(target=lambda: sandbox.level)
    thread.start()
    thread.join()
    time.sleep(0.1)
    with sandbox.solution("x = 1", deadline=Deadline(5)) as (_, said):
        assert said == ["ready"]
    sandbox.close()


def test_no_descriptor_or_process_is_left_after_many_executions(sandbox):
    with sandbox.solution("x = 1", deadline=Deadline(5)):
        pass
    before, processes = len(list(Path("/proc/self/fd").iterdir())), len(processes_of(sandbox))
    for _ in range(100):
        with sandbox.solution("x = 1", deadline=Deadline(5)):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(processes_of(sandbox)) == processes


def test_the_processor_of_this_machine_is_known():
    assert platform.machine() in ("x86_64", "aarch64")
