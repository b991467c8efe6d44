from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oxrl_core.engine.checkpoint import CheckpointStore, hash_file, read_manifest, write_rank_receipt
from oxrl_core.errors import CheckpointError
from oxrl_core.types import Progress


def write(text: str):
    def into(folder: Path) -> None:
        (folder / "weights.bin").write_text(text)
        (folder / "deeper").mkdir()
        (folder / "deeper" / "more.bin").write_text(text * 2)

    return into


def save(store: CheckpointStore, step: int) -> Path:
    return store.commit(step, write(f"state {step}"), Progress(step=step, row_cursor=7), run_id="r1")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_committed_checkpoint_is_found_with_its_facts(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    folder = save(store, 3)
    found = CheckpointStore(tmp_path / "checkpoints", keep=2).newest()
    assert found is not None
    assert found[0] == folder == tmp_path / "checkpoints" / "step_00000003"
    manifest = found[1]
    assert manifest["step"] == 3
    assert Progress(**manifest["progress"]) == Progress(step=3, row_cursor=7)
    assert manifest["run_id"] == "r1"
    assert manifest["parent"] is None
    assert manifest["files"]["deeper/more.bin"]["size"] == 14


def test_nothing_there_is_none_and_not_an_error(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "never", keep=1).newest() is None


def test_the_newest_few_are_kept_and_know_their_parents(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 10, 9):
        save(store, step)
    assert names(tmp_path) == ["step_00000009", "step_00000010"]
    newest = store.newest()
    assert newest is not None
    assert (newest[1]["step"], newest[1]["parent"]) == (10, "step_00000002")


def test_steps_beyond_eight_digits_still_sort_by_number(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 99_999_999)
    save(store, 100_000_000)
    newest = store.newest()
    assert newest is not None
    assert newest[1]["step"] == 100_000_000


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove", "manifest", "not json", "no files"])
def test_a_torn_checkpoint_is_put_aside_and_the_one_before_it_serves(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    save(store, 1)
    torn = save(store, 2)
    file = torn / "weights.bin"
    if damage == "flip":
        file.write_text("State 2")
    elif damage == "shorten":
        file.write_text("state")
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        (torn / "manifest.json").unlink()
    elif damage == "not json":
        (torn / "manifest.json").write_text('{"format": 1, "step"')
    else:
        (torn / "manifest.json").write_text("[]")
    found = store.newest()
    assert found is not None
    assert found[1]["step"] == 1
    assert [path.name.startswith("bad_step_00000002-") for path in store.quarantined] == [True]
    assert store.quarantined[0].is_dir(), "kept for inspection"


def test_only_torn_ones_is_none_with_a_list_to_report(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    (save(store, 1) / "weights.bin").unlink()
    assert store.newest() is None
    assert len(store.quarantined) == 1


def test_a_failed_write_commits_nothing_and_its_rubbish_goes_at_the_next_save(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)

    def fail(folder: Path) -> None:
        (folder / "half.bin").write_text("ha")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.commit(2, fail, Progress(step=2))
    found = store.newest()
    assert found is not None
    assert found[1]["step"] == 1
    save(store, 3)
    assert names(tmp_path) == ["step_00000001", "step_00000003"]


def test_saving_a_step_again_keeps_the_valid_one_and_replaces_a_torn_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    first = save(store, 4)
    before = (first / "manifest.json").stat().st_mtime_ns
    save(store, 4)
    assert (first / "manifest.json").stat().st_mtime_ns == before
    (first / "weights.bin").write_text("torn")
    assert read_manifest(first) is None
    assert read_manifest(save(store, 4)) is not None


def test_many_ranks_write_and_a_file_that_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step, meddle in ((1, False), (2, True)):
        folder = store.begin(step)
        for rank in range(2):
            part = folder / f"rank-{rank}.bin"
            part.write_text(f"part {rank}")
            write_rank_receipt(folder, rank, {part.name: hash_file(part)})
        if not meddle:
            assert store.finish(Progress(step=step)).name == "step_00000001"
        else:
            (folder / "rank-1.bin").write_text("part ?")
            with pytest.raises(CheckpointError, match=r"rank-1\.bin is not what rank-00001 wrote"):
                store.finish(Progress(step=step))
    found = store.newest()
    assert found is not None
    assert found[1]["step"] == 1


def test_finish_without_a_file_or_a_beginning_is_an_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    with pytest.raises(CheckpointError, match="without begin"):
        store.finish(Progress())
    store.begin(1)
    with pytest.raises(CheckpointError, match="nothing was written"):
        store.finish(Progress())


def test_the_hash_is_that_of_the_whole_file(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 5_000_000)
    same = tmp_path / "same"
    same.write_bytes(b"x" * 5_000_000)
    assert hash_file(big) == hash_file(same)
    same.write_bytes(b"x" * 4_999_999 + b"y")
    assert hash_file(big) != hash_file(same)


# A training run in miniature: its state after step n is a chain of hashes, so any lost or mixed step shows at the end.
TOY = """
import hashlib, sys
from pathlib import Path
from oxrl_core.engine.checkpoint import CheckpointStore
from oxrl_core.types import Progress

store = CheckpointStore(Path(sys.argv[1]), keep=2)
found = store.newest()
step, state = 0, "start"
if found:
    step, state = found[1]["step"], (found[0] / "state").read_text()
print(f"from {step} bad {len(store.quarantined)}", flush=True)
while step < int(sys.argv[2]):
    step, state = step + 1, hashlib.sha256(state.encode()).hexdigest()
    def write(folder):
        for part in range(4):
            with (folder / f"part-{part}").open("w") as file:
                for _ in range(8):
                    file.write(state * 16)
                    file.flush()
        (folder / "state").write_text(state)
    store.commit(step, write, Progress(step=step))
    print(f"saved {step}", flush=True)
"""


def test_no_committed_step_is_lost_under_twenty_kills(tmp_path: Path) -> None:
    script = tmp_path / "toy.py"
    script.write_text(TOY)
    root = tmp_path / "checkpoints"
    dice = random.Random(11)
    acknowledged = 0
    kills = 0
    while kills < 20:
        process = subprocess.Popen(
            [sys.executable, str(script), str(root), "1000000"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first[0] == "from", "the run starts again after every kill"
        assert int(first[1]) >= acknowledged, "a step that was acknowledged is there"
        assert first[3] == "0", "and whole: the rename is the commit"
        lines = [process.stdout.readline() for _ in range(dice.randrange(4))]
        time.sleep(dice.uniform(0.0, 0.03))  # somewhere in the next save
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait(timeout=30)
        kills += 1
        for line in lines:
            if line.startswith("saved "):
                acknowledged = int(line.split()[1])
    assert acknowledged > 20, "the kills fell among many saves"
    target = str(acknowledged + 3)
    subprocess.run([sys.executable, str(script), str(root), target], check=True, timeout=60, capture_output=True)
    straight = tmp_path / "straight"
    subprocess.run([sys.executable, str(script), str(straight), target], check=True, timeout=120, capture_output=True)
    state = (root / f"step_{int(target):08d}" / "state").read_text()
    assert state == (straight / f"step_{int(target):08d}" / "state").read_text()
    assert len(names(root)) == 2, "two are kept and no rubbish is left"
    assert json.loads((root / f"step_{int(target):08d}" / "manifest.json").read_text())["step"] == int(target)


def test_every_flipped_bit_and_every_truncation_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    folder = save(CheckpointStore(tmp_path, keep=2), 1)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    dice = random.Random(5)
    assert read_manifest(folder) is not None
    for number in range(1000):
        file = files[number % len(files)]
        whole = file.read_bytes()
        if number % 4 == 0:
            damaged = whole[: dice.randrange(len(whole))]
        else:
            place = dice.randrange(len(whole))
            damaged = whole[:place] + bytes([whole[place] ^ 1 << dice.randrange(8)]) + whole[place + 1 :]
        file.write_bytes(damaged)
        assert read_manifest(folder) is None, f"{file.name} was {len(whole)} bytes, damaged at case {number}"
        file.write_bytes(whole)
    assert read_manifest(folder) is not None


def test_the_manifest_is_cut_anywhere_and_found_out(tmp_path: Path) -> None:
    folder = save(CheckpointStore(tmp_path, keep=2), 1)
    manifest = folder / "manifest.json"
    whole = manifest.read_bytes()
    for size in range(len(whole)):
        manifest.write_bytes(whole[:size])
        assert read_manifest(folder) is None
    assert json.loads(whole)["versions"]["torch"]


def test_the_best_are_kept_by_their_scores_and_the_newest_wins_a_tie(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1, keep_best=2)
    for step, score in ((1, 0.5), (2, None), (3, 0.5), (4, 0.9), (5, 0.1), (6, None)):
        store.commit(step, write(f"state {step}"), Progress(step=step), score=score)
    assert names(tmp_path) == ["step_00000003", "step_00000004", "step_00000006"]
    newest = store.newest()
    assert newest is not None
    assert newest[1]["score"] is None


def test_what_is_set_aside_is_never_found_again(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    save(store, 1)
    (save(store, 2) / "weights.bin").unlink()
    assert store.newest() is not None
    assert len(store.bad()) == 1
    assert len(store.set_aside()) == 2
    assert store.newest() is None
    assert store.bad() == []
    assert all(name.startswith("old_") for name in names(tmp_path))
