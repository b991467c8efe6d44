"""A process that has imported all that training needs and forks a driver whenever one is asked for.

A driver takes ten seconds to import its libraries. Who starts hundreds of them to kill them asks here: the fork is the
real driver in a process of its own, which begins where the imports end.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 300.0
MODULES = (
    "oxrl_core.driver",
    "oxrl_core.build",
    "oxrl_core.train.rl",
    "oxrl_core.train.sl",
    "oxrl_core.train.journal",
    "oxrl_core.train.learner_worker",
    "oxrl_core.engine.policy",
    "oxrl_core.rollout.hf_worker",
    "deepspeed",
    "transformers.models.qwen2.modeling_qwen2",
)


class ForkServer:
    """The server's client: starts it, asks it for drivers, ends it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.address = str(Path(self._folder.name) / "socket")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen([sys.executable, __file__, self.address], env=environment)
        deadline = time.monotonic() + START_SECONDS
        while not Path(self.address).exists():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the fork server did not start: exit code {self._server.poll()}")
            time.sleep(0.05)

    def close(self) -> None:
        """Ends the server."""
        self._server.kill()
        self._server.wait()
        self._folder.cleanup()


class Fork:
    """One forked program: `pid` at once, its exit code when it has ended."""

    def __init__(self, address: str, script: str, argv: list[str], log: int, environment: dict[str, str]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        request = {"script": script, "argv": argv, "environment": environment, "cwd": str(Path.cwd())}
        socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], [log])
        self._answers = self._socket.makefile()
        self.pid = int(self._answers.readline())

    def kill(self) -> None:
        """SIGKILL, at whatever it is doing."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def wait(self) -> int:
        """The exit code; negative: the signal that ended it."""
        code = int(self._answers.readline())
        self._answers.close()
        self._socket.close()
        return code


def serve(address: str) -> None:
    """Imports everything, then forks whatever is asked for, one after the other."""
    sys.path.insert(0, str(ROOT))
    for module in MODULES:
        __import__(module)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen()
    Path(address + ".new").rename(address)
    listener.settimeout(1.0)
    client = os.getppid()
    while os.getppid() == client:  # a server whose client is gone has nothing to wait for
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection:
            connection.settimeout(None)
            message, files, _, _ = socket.recv_fds(connection, 1 << 20, 1)
            request = json.loads(message)
            pid = os.fork()
            if pid == 0:
                listener.close()
                connection.close()
                become(request, files[0])
            os.close(files[0])
            try:
                connection.sendall(f"{pid}\n".encode())
                connection.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
            except BrokenPipeError:  # whoever asked was ended
                continue


def become(request: dict[str, Any], log: int) -> None:
    """Runs the script in this process, as a fresh interpreter would; never returns."""
    code = 1
    try:
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.argv = [request["script"], *request["argv"]]
        for folder in request["environment"].get("PYTHONPATH", "").split(os.pathsep):
            if (Path(folder) / "sitecustomize.py").is_file():  # what an interpreter runs first
                runpy.run_path(str(Path(folder) / "sitecustomize.py"))
        runpy.run_path(request["script"], run_name="__main__")
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
