"""Stands between a client and a stdio server, passes every line on, and counts: python -m evals.proxy LOG COMMAND...

One line of JSON for each answered call: tool, characters of its arguments and of the answer, whether it was an error.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any


class Counter:
    """The calls on their way, and the file of those that were answered."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._asked: dict[Any, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def asked(self, message: dict[str, Any]) -> None:
        """Notes a request."""
        if message.get("method") in ("tools/call", "tools/list") and "id" in message:
            parameters: dict[str, Any] = message.get("params") or {}
            given = json.dumps(parameters.get("arguments") or {}, separators=(",", ":"), ensure_ascii=False)
            with self._lock:
                self._asked[message["id"]] = {
                    "method": message["method"],
                    "tool": parameters.get("name", ""),
                    "arguments": len(given),
                }

    def answered(self, message: dict[str, Any]) -> None:
        """Writes the request down with the size of its answer, as a model would read it."""
        with self._lock:
            record = self._asked.pop(message.get("id"), None)
            if record is None or "method" in message:
                return
            result: dict[str, Any] = message.get("result") or {}
            if record["method"] == "tools/list":
                # What hosts put in front of the model: no output schemas.
                tools: list[dict[str, Any]] = result.get("tools", [])
                read = [[tool.get("name"), tool.get("description"), tool.get("inputSchema")] for tool in tools]
                record["answer"] = len(json.dumps(read, separators=(",", ":"), ensure_ascii=False))
            else:
                blocks: list[dict[str, Any]] = result.get("content", [])
                record["answer"] = sum(len(str(block.get("text", ""))) for block in blocks)
            record["error"] = bool(result.get("isError") or "error" in message)
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def carry(source: IO[bytes], target: IO[bytes], note: Any) -> None:
    """Passes lines on until the source ends, then ends the target."""
    for line in source:
        try:
            message = json.loads(line)
            if isinstance(message, dict):
                note(message)
        except ValueError:
            pass  # what is no JSON is the other side's to refuse
        try:
            target.write(line)
            target.flush()
        except (BrokenPipeError, ValueError):
            return
    target.close()


def main() -> int:
    """The exit code of the server."""
    counter = Counter(Path(sys.argv[1]))
    server = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None and server.stdout is not None
    back = threading.Thread(target=carry, args=(server.stdout, sys.stdout.buffer, counter.answered), daemon=True)
    back.start()
    carry(sys.stdin.buffer, server.stdin, counter.asked)
    try:
        return server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        return 1
    finally:
        back.join(timeout=5)


if __name__ == "__main__":
    sys.exit(main())
