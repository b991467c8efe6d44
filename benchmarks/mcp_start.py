"""How long `oxrl-mcp` takes to answer `initialize`, against importing `mcp` alone: the floor of any server on this SDK.

    python benchmarks/mcp_start.py [--rounds 15] [--limit 1.2]

The two are measured in turns, so that a busy machine slows both, and compared by their medians. Above the limit the
exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "benchmark", "version": "1"},
    },
}


def seconds_to_import() -> float:
    """Wall seconds of a process that imports the SDK and says so."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", "import mcp; print('ready', flush=True)"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    seconds = time.perf_counter() - started
    process.wait(timeout=60)
    return seconds


def seconds_to_answer(home: str) -> float:
    """Wall seconds from starting the server to its answer to `initialize`."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OXRL_HOME": home},
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(HELLO).encode() + b"\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    seconds = time.perf_counter() - started
    assert answer["result"]["serverInfo"]["name"] == "oxrl"
    process.stdin.close()
    process.wait(timeout=60)
    return seconds


def main() -> int:
    """The exit code: 0 where the ratio of the medians is within the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=1.2)
    arguments = parser.parse_args()
    imports, answers = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as home:
        seconds_to_import(), seconds_to_answer(home)  # the first ones compile and fill the file cache
        for _ in range(arguments.rounds):
            imports.append(seconds_to_import())
            answers.append(seconds_to_answer(home))
    import_median, answer_median = statistics.median(imports), statistics.median(answers)
    ratio = answer_median / import_median
    print(f"import mcp          median {import_median:.3f} s  (min {min(imports):.3f})")
    print(f"initialize answered median {answer_median:.3f} s  (min {min(answers):.3f})")
    print(f"ratio of medians    {ratio:.2f}  (limit {arguments.limit})")
    return 0 if ratio <= arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())
