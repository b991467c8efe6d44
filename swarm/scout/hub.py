"""A repository of the hub (any HF_ENDPOINT): its listing through huggingface_hub, its files by bounded range reads."""

from __future__ import annotations

import os
import time
from typing import Any, cast

from oxrl_core.errors import ModelError
from swarm.scout.documents import plain
from swarm.scout.source import Budget, OutOfTime, Repository

LONGEST_RETRY_SECONDS = 1.5  # a limit that asks for more is told, not waited for
LICENSE_TAG = "license:"


class HubError(ModelError):
    """A repository that cannot be looked at; `code` is the failure that a run would meet."""

    def __init__(self, what: str, where: str = "", next_step: str = "", code: str = "hub_down") -> None:
        super().__init__(what, where, next_step)
        self.code = code


def endpoint() -> str:
    """The address of the hub."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


class HubSource:
    """One repository at one commit."""

    def __init__(self, hub_id: str, revision: str | None, budget: Budget) -> None:
        from huggingface_hub import HfApi

        self.hub_id = hub_id
        self.budget = budget
        api = HfApi(endpoint=endpoint())
        info = self._answered(
            lambda: api.model_info(hub_id, revision=revision, files_metadata=True, timeout=budget.left())
        )
        files = cast("list[Any]", info.siblings or [])
        card = cast("dict[str, Any]", info.card_data.to_dict()) if info.card_data is not None else {}
        tags = [tag for tag in cast("list[object]", info.tags or []) if isinstance(tag, str)]
        named = next((tag.removeprefix(LICENSE_TAG) for tag in tags if tag.startswith(LICENSE_TAG)), "")
        self.repository = Repository(
            sizes={str(file.rfilename): file.size if isinstance(file.size, int) else None for file in files},
            revision=plain(info.sha, ""),
            license=plain(card.get("license") or named),
            gated=bool(info.gated) if info.gated is not None else None,
            downloads=info.downloads if isinstance(info.downloads, int) else None,
            tags=[shown for tag in tags if (shown := plain(tag, "")) and " " not in shown][:12],
            pipeline=plain(info.pipeline_tag, ""),
        )

    def read(self, path: str, most: int) -> bytes:
        return self.read_range(path, 0, most + 1)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return self._answered(lambda: self._get(path, start, length))

    def _get(self, path: str, start: int, length: int) -> bytes:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import (
            build_hf_headers,  # pyright: ignore[reportUnknownVariableType] - a bare dict among its arguments
            hf_raise_for_status,
        )

        url = hf_hub_url(self.hub_id, path, revision=self.repository.revision or None, endpoint=endpoint())
        # As it is: a compressed answer could grow without end.
        headers = {
            **build_hf_headers(),
            "Range": f"bytes={start}-{start + length - 1}",
            "Accept-Encoding": "identity",
        }
        parts: list[bytes] = []
        size = 0
        session = cast("Any", get_session())
        with session.stream("GET", url, headers=headers, timeout=self.budget.left(), follow_redirects=True) as response:
            if response.status_code == 416:  # past the end of the file
                return b""
            if response.status_code >= 400:
                hf_raise_for_status(response)
            # A server without ranges sends the file from its beginning.
            skip = start if response.status_code == 200 else 0
            for part in response.iter_raw(1 << 16):
                self.budget.left()
                parts.append(part)
                size += len(part)
                if size >= skip + length:
                    break
        return b"".join(parts)[skip : skip + length]

    def _answered(self, ask: Any) -> Any:
        """The answer; one short wait where the hub asks for it. HubError says what stood in the way."""
        for attempt in (1, 2):
            try:
                return ask()
            except OutOfTime:
                raise
            except Exception as error:
                seconds = _retry_after(error)
                if attempt == 1 and seconds is not None and seconds <= self.budget.left(LONGEST_RETRY_SECONDS):
                    time.sleep(seconds)
                    continue
                raise as_hub_error(error, self.hub_id) from error
        raise AssertionError("one of two attempts returns or raises")


def _status(error: Exception) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _retry_after(error: Exception) -> float | None:
    """Seconds that a busy hub asks to wait; None where it is not that."""
    if _status(error) not in (429, 503):
        return None
    text = str(getattr(error, "response").headers.get("Retry-After", "1"))  # noqa: B009 - _status found it there
    return float(text) if text.replace(".", "", 1).isdigit() else 1.0


def as_hub_error(error: Exception, hub_id: str) -> HubError | Exception:
    """What an exception of huggingface_hub or of its HTTP client means; other exceptions come back as they are."""
    from huggingface_hub import errors

    status = _status(error)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return HubError("access is restricted", hub_id, f"ask for it at {endpoint()}/{hub_id}, set HF_TOKEN", "gated")
    if isinstance(error, errors.HFValidationError):
        return HubError("no repository can have this name", hub_id, "give owner/name", "hub_down")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError("there is no such revision", hub_id, "name a branch, tag or commit", "hub_down")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        step = "check the spelling (oxrl scout --search NAME); a private one needs HF_TOKEN"
        return HubError("there is no such repository or file", hub_id, step, "missing")
    if status == 429:
        return HubError(
            "the hub's limit of requests is reached", hub_id, "wait a minute, or set HF_TOKEN", "rate_limit"
        )
    if status >= 500:
        return HubError(f"the hub answers with error {status}", hub_id, "try again later", "hub_down")
    if isinstance(error, errors.OfflineModeIsEnabled | OSError | _transport_error()):
        where = f"{endpoint()} cannot be reached"
        return HubError(where, hub_id, "check the network, HF_ENDPOINT and HF_HUB_OFFLINE; or give a folder")
    return error


def _transport_error() -> type[Exception]:
    import httpx2

    return httpx2.TransportError
