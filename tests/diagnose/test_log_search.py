"""Known failures in logs: roots before wrappers, the earliest first, dumps and the model's own words left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from oxrl_core.diagnose import logs
from oxrl_core.diagnose.logs import search_logs, search_text

ROOT = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."
WRAPPER = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
DUMP = (
    "INFO config: model='m', tokenizer='m', dtype=torch.bfloat16, max_seq_len=2048, chat_template=None, seed=0, "
    "gpu_memory_utilization=0.5, note='CUDA out of memory. Tried to allocate', quantization=None, device=cuda"
)


def test_a_wrapper_never_wins_over_a_root_wherever_it_stands() -> None:
    for text in (f"{ROOT}\n{WRAPPER}\n", f"{WRAPPER}\n{ROOT}\n"):
        verdict = search_text(text)
        assert verdict.root is not None and verdict.root.id == "vllm_kv_none"
        assert [hit.id for hit in verdict.wrappers] == ["vllm_core_init"]


def test_a_wrapper_alone_is_no_root() -> None:
    assert search_text(WRAPPER).root is None


def test_the_earliest_root_wins() -> None:
    late = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    verdict = search_text(f"step 1/10 loss=0.3\nOSError: [Errno 28] No space left on device\n{late}\n")
    assert verdict.root is not None and verdict.root.id == "disk_full" and not verdict.is_ambiguous


def test_time_decides_between_logs_and_without_it_they_are_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "driver.log").write_text("2026-11-02 10:00:09 ERROR No space left on device\n")
    (tmp_path / "worker.log").write_text("2026-11-02 10:00:02 ERROR address already in use\n")
    paths = [tmp_path / "driver.log", tmp_path / "worker.log"]
    verdict = search_logs(paths)
    assert verdict.root is not None and verdict.root.id == "eaddrinuse" and not verdict.is_ambiguous
    (tmp_path / "worker.log").write_text("ERROR address already in use\n")
    verdict = search_logs(paths)
    assert verdict.is_ambiguous and [hit.id for hit in verdict.rivals] == ["eaddrinuse"]


def test_dumps_sources_and_samples_are_no_failures() -> None:
    text = (
        f"{DUMP}\n"
        '    raise ValueError("No available memory for the cache blocks. Try increasing")\n'
        "  best of step 10 (reward 1.000): 'what is ENOSPC' -> 'No space left on device'\n"
    )
    verdict = search_text(text)
    assert verdict.root is None and not verdict.wrappers


def test_colours_do_not_hide_a_failure() -> None:
    verdict = search_text("\x1b[31mERROR\x1b[0m No available\x1b[1m memory for the cache blocks\n")
    # The text itself is broken by the colour: the plain text before it is not found, the one below is.
    assert verdict.root is None
    verdict = search_text("\x1b[31mERROR No available memory for the cache blocks\x1b[0m\n")
    assert verdict.root is not None and "\x1b" not in verdict.root.line


def test_numbers_are_parsed_out_of_the_text() -> None:
    busy = "ValueError: Free memory on device cuda:0 (12.5/79.1 GiB) on startup is less than desired GPU memory"
    verdict = search_text(busy)
    assert verdict.root is not None and verdict.root.numbers == {"free": "12.5", "tot": "79.1"}
    fits = (
        "ValueError: To serve at least one request with the model's max seq len (32768), 3.5 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (0.5 GiB). Based on the available memory, the estimated "
        "maximum model length is 4608. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
    )
    verdict = search_text(fits)
    assert verdict.root is not None and verdict.root.numbers == {"want": "32768", "est": "4608"}


def test_ten_megabytes_take_less_than_two_seconds(tmp_path: Path) -> None:
    line = "step 12/400 reward/mean=0.312 loss=-0.0121 entropy=1.92 completion/length=214.3 seconds=3.1\n"
    path = tmp_path / "driver.log"
    path.write_text(line * (10 * 2**20 // len(line)) + ROOT + "\n")
    search_text("warm up")
    began = time.process_time()
    verdict = search_logs([path])
    assert time.process_time() - began < 2.0
    assert verdict.root is not None and verdict.root.id == "vllm_kv_none"


def test_of_a_huge_log_beginning_and_end_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "HEAD_BYTES", 2**16)
    monkeypatch.setattr(logs, "TAIL_BYTES", 2**16)
    path = tmp_path / "driver.log"
    path.write_text("first\n" + "step 3\n" * 200_000 + ROOT + "\n")
    data = logs.read_bounded(path)
    assert len(data) == 2**17 + 1 and data.startswith(b"first\n")
    verdict = search_logs([path])
    assert verdict.root is not None and verdict.root.id == "vllm_kv_none"
