"""A queue of onboardings: priorities, several workers, and the death of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oxrl_core.diagnose.views import Change
from oxrl_core.errors import ConfigError
from swarm.onboard import archive
from swarm.onboard.queue import Item, Queue, Result, read_items, registry_items

ROOT = Path(__file__).parent.parent.parent
WORKER = """
import os, sys, time
from pathlib import Path
from swarm.onboard.queue import Queue, Result
log, queue = Path(sys.argv[1]), Queue(Path(sys.argv[2]), "q")
def say(word, item):
    with log.open("a") as file:
        file.write(f"{word} {item.model} {os.getpid()}\\n")
def do(item):
    say("begins", item)
    time.sleep(0.4)
    say("ends", item)
    return Result(model=item.model, state="finished")
queue.work(do)
"""


def start(log: Path, home: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", WORKER, str(log), str(home)], env=environment)


def test_two_workers_empty_a_queue_of_six_though_one_of_them_is_killed(tmp_path: Path) -> None:
    queue, log = Queue(tmp_path, "q"), tmp_path / "log"
    queue.add([Item(model=f"m{number}") for number in range(6)])
    log.touch()
    first, second = start(log, tmp_path), start(log, tmp_path)
    deadline = time.monotonic() + 60
    while f"begins m0 {first.pid}" not in log.read_text() and f"begins m1 {first.pid}" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)  # in the middle of an item
    first.wait()
    assert second.wait(60) == 0
    lines = [line.split() for line in log.read_text().splitlines()]
    ends = [model for word, model, _ in lines if word == "ends"]
    assert sorted(ends) == [f"m{number}" for number in range(6)]  # each once, and none is missing
    assert len([1 for word, _, _ in lines if word == "begins"]) == 7  # that of the dead was begun again
    view = queue.view()
    assert len(view.results) == 6 and not view.waiting and not view.running


def test_the_highest_priority_is_taken_first_and_nothing_is_added_twice(tmp_path: Path) -> None:
    queue = Queue(tmp_path, "q")
    queue.add([Item(model="small"), Item(model="urgent", priority=5)])
    queue.add([Item(model="small"), Item(model="other")])
    done: list[str] = []

    def do(item: Item) -> Result:
        done.append(item.model)
        return Result(model=item.model, state="finished")

    assert queue.work(do) == 3
    assert done == ["urgent", "small", "other"]
    assert queue.work(do) == 0


def test_a_queue_is_read_from_a_list_of_models(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("- Qwen/Qwen3-0.6B\n- {model: microsoft/phi-4, task: math, priority: 2}\n")
    assert [(item.model, item.task, item.priority) for item in read_items(path)] == [
        ("Qwen/Qwen3-0.6B", "", 0), ("microsoft/phi-4", "math", 2),
    ]  # fmt: skip
    path.write_text("model: a\n")
    with pytest.raises(ConfigError, match="no list"):
        read_items(path)
    path.write_text("- {model: a, code: rm}\n")
    with pytest.raises(ConfigError):
        read_items(path)


def test_the_whole_registry_is_a_queue_the_smallest_model_first() -> None:
    items = registry_items()
    assert len(items) >= 39 and items[0].model == "miniature:smollm2-135m-instruct"


def test_a_later_onboarding_never_loses_a_fix_nor_a_higher_level(tmp_path: Path) -> None:
    fix = Change(path="model.attention", old="flash_attention_2", new="sdpa", why="no package", risk="S")
    facts = {"model": "a/b", "verified": {"level": "full", "run_id": "one"}}
    archive.write_entry(tmp_path, "b", facts, {"miniature": [fix], "real": []})
    later = {"model": "a/b", "verified": {"level": "miniature", "run_id": "two"}}
    archive.write_entry(tmp_path, "b", later, {"miniature": [], "real": []})
    entry = archive.read_entry(tmp_path, "b")
    assert archive.kept_fixes(tmp_path, "b", "miniature") == [fix]
    assert entry["verified"]["run_id"] == "one" and entry["verified_again"]["run_id"] == "two"
