"""Tasks whose answers nobody can guess, and things on this machine that no model's code may touch."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.rewards.code import code
from oxrl_core.rewards.sandbox.pool import Sandbox, shared_sandbox
from oxrl_core.types import Prompt, Rollout, Score

INPUTS = [3, 8, 21]


def rollout_of(text: str, row: dict[str, Any]) -> Rollout:
    return Rollout(Prompt("t/train/0", [], "", row=row), 0, [], [], "stop", 0, 0, text)


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return shared_sandbox()


@pytest.fixture(scope="session")
def score() -> Callable[..., Score]:
    def run(program: str, row: dict[str, Any], *, fenced: bool = True, **parameters: Any) -> Score:
        text = f"Here it is.\n```python\n{program}\n```\n" if fenced else program
        return code(rollout_of(text, row), **parameters)

    return run


@pytest.fixture(scope="session")
def answers() -> dict[int, int]:
    """What `solve` must return for each input: random numbers, so that only a leak or a forgery can pass."""
    return {number: secrets.randbelow(10**12) + 10**12 for number in INPUTS}


@pytest.fixture(scope="session")
def tasks(answers: dict[int, int]) -> dict[str, dict[str, Any]]:
    """The same task in every form of tests."""
    # Not one statement: that would be taken apart into calls, which the form "calls" has.
    checks = "\n".join(f"    got = candidate({given})\n    assert got == {wanted}" for given, wanted in answers.items())
    return {
        "calls": {"tests": [{"function": "solve", "args": [a], "expected": b} for a, b in answers.items()]},
        "asserts": {"test_list": [f"assert solve({a}) == {b}" for a, b in answers.items()]},
        "script": {
            "test_list": [f"assert abs(solve({a}) - {b}) == 0" for a, b in answers.items()]
            + [f"assert [solve({a})] == [{b}] and list(map(solve, [{a}])) == [{b}]" for a, b in answers.items()]
        },
        "check": {
            "prompt": "def solve(n):\n    '''The secret of n.'''\n",
            "test": f"METADATA = {{}}\n\ndef check(candidate):\n{checks}\n",
            "entry_point": "solve",
        },
        "program": {"inputs": [f"{a}\n" for a in answers], "outputs": [f"{b}\n" for b in answers.values()]},
    }


@dataclass
class Canaries:
    """Things of this machine that a model's code would want, or could break."""

    secret: str
    home: Path
    port: int
    unix: Path
    abstract: str
    process: subprocess.Popen[bytes]
    reached: list[str] = field(default_factory=list)
    before: set[Path] = field(default_factory=set)

    def fill(self, program: str) -> str:
        """The program with the places of the canaries written into it: more than an attacker could know."""
        places = {
            "@KEY@": self.home / ".ssh" / "id_rsa",
            "@HOME@": self.home,
            "@PORT@": self.port,
            "@UNIX@": self.unix,
            "@ABSTRACT@": self.abstract,
            "@PID@": self.process.pid,
            "@JUDGE@": os.getpid(),
        }
        for mark, place in places.items():
            program = program.replace(mark, str(place))
        return program

    def check(self) -> None:
        """Fails where one of them was touched."""
        time.sleep(0)  # the listening threads run
        assert self.reached == []
        assert self.process.poll() is None
        assert os.getpriority(os.PRIO_PROCESS, self.process.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        assert (self.home / ".ssh" / "id_rsa").read_text() == f"KEY {self.secret}\n"
        assert set(self.home.rglob("*")) == self.before


@pytest.fixture(scope="session")
def canaries(sandbox: Sandbox) -> Iterator[Canaries]:
    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)  # other users could enter: file modes alone must not be what holds
    secret = secrets.token_hex(8)
    (home / ".ssh").mkdir(mode=0o777)
    (home / ".ssh" / "id_rsa").write_text(f"KEY {secret}\n")
    (home / ".ssh" / "id_rsa").chmod(0o666)
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    os.environ["CANARY_TOKEN"] = secret
    reached: list[str] = []
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port = tcp.getsockname()[1]
    udp.bind(("127.0.0.1", port))
    unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    unix.bind(str(home / "s"))
    (home / "s").chmod(0o777)
    abstract.bind(f"\0canary-{secret}")
    for name, listener in (("tcp", tcp), ("unix", unix), ("abstract", abstract)):
        listener.listen()
        threading.Thread(target=_note, args=(listener.accept, name, reached), daemon=True).start()
    threading.Thread(target=_note, args=(lambda: udp.recv(1), "udp", reached), daemon=True).start()
    environment = {**os.environ, "CANARY_ENV": secret}
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], env=environment)
    made = Canaries(secret, home, port, home / "s", f"canary-{secret}", process, reached, set(home.rglob("*")))
    yield made
    process.kill()
    process.wait(timeout=10)
    del os.environ["CANARY_TOKEN"]
    for listener in (tcp, udp, unix, abstract):
        listener.close()
    shutil.rmtree(home)


def _note(wait: Callable[[], Any], name: str, reached: list[str]) -> None:
    try:
        wait()
    except OSError:
        return  # closed at the end
    reached.append(name)
