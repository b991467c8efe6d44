"""What every test may rely on: quiet libraries, a home of its own, and one local Ray for those that ask for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Read while torch, vLLM, DeepSpeed and Ray are imported, so set before any test is.
ENVIRONMENT = {
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "RAY_health_check_failure_threshold": "30",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",
}
os.environ.update(ENVIRONMENT)
os.environ.setdefault("DS_ACCELERATOR", "cpu")
STARTED_BY_A_LAUNCHER = "LOCAL_RANK" in os.environ  # asked before any fixture: one of the session may start an engine

# A shell starts what it runs in the background deaf to Ctrl-C, and so are all who are started from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A property holds or not; how long an example takes on a busy machine is no part of it (benchmarks/ measure speed).
hypothesis.settings.register_profile("oxrl", deadline=None)
hypothesis.settings.load_profile("oxrl")


# Whole files go to one process each (make test); the longest must not be the last to begin.
LONG_FIRST = ("test_readme.py", "whole", "engine", "bench", "train", "runs", "rollout", "models")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files of long tests before the others."""

    def rank(item: pytest.Item) -> int:
        top = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONG_FIRST.index(top) if top in LONG_FIRST else len(LONG_FIRST)

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def oxrl_home_of_the_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the runs of the person who starts it."""
    home = tmp_path_factory.mktemp("oxrl-home")
    monkeypatch.setenv("OXRL_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def no_rank_is_left_behind() -> Iterator[None]:
    """A test that made this process a rank must not make the processes of the next one think that torchrun did."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(autouse=True, scope="module")
def no_local_rank_is_left_behind() -> Iterator[None]:
    """An engine of one module must not make libraries in the next one think that a launcher started this process."""
    yield
    if not STARTED_BY_A_LAUNCHER:
        os.environ.pop("LOCAL_RANK", None)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray on this machine for all tests that need actors: each start costs seconds."""
    import ray

    # 8 places on however many cores: what is tested is the calls, not the speed.
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()
