from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from loopback_hub import Hub, Repo, good_files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one good model, which this process may ask."""
    import huggingface_hub.constants

    made = Hub()
    made.repos["acme/good"] = Repo(good_files())
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The good model as a local folder."""
    made = tmp_path / "good"
    made.mkdir()
    for name, data in good_files().items():
        (made / name).write_bytes(data)
    return made
