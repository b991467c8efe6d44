"""A client of an OpenAI-compatible chat-completions endpoint: retries, a budget of calls, a deadline for each.

The key is read from the environment for each call and goes into one header. It is in no setting, error or log.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from oxrl_core.errors import ConfigError
from oxrl_core.types import Message

if TYPE_CHECKING:
    import httpx2

ENDPOINT = "/chat/completions"
RETRIED = {408, 409, 425, 429}  # and every 5xx: the same request may be answered later
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0  # of our own choosing; a server may ask for more
LONGEST_RETRY_AFTER = 600.0
MOST_BYTES = 4 << 20  # of one answer
EXCERPT = 200  # characters of a server's answer in a message


class UnansweredError(Exception):
    """A question that got no answer. It ends nothing: its verdict has the status "error" or "timeout"."""

    def __init__(self, reason: str, *, is_late: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_late = is_late


class ChatClient:
    """One endpoint and one model. Threads may use it together."""

    def __init__(
        self,
        *,
        url: str,
        model: str,
        api_key_env: str,
        request: Mapping[str, Any],
        call_timeout_seconds: float,
        retries: int,
        max_calls: int | None,
    ) -> None:
        self.url = _endpoint(url)
        self.model = model
        self.api_key_env = api_key_env
        self.request = dict(request)  # fields of the body besides model and messages
        self.call_timeout_seconds = call_timeout_seconds
        self.retries = retries
        self.max_calls = max_calls
        self.counts: Counter[str] = Counter()
        self._ledger: Path | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._http: httpx2.Client | None = None

    def key(self) -> str:
        """The key, or "" where the endpoint needs none."""
        if not self.api_key_env:
            return ""
        key = os.environ.get(self.api_key_env, "")
        if not key:
            raise ConfigError(
                f"the environment variable {self.api_key_env} is not set; it holds the key of the judge",
                where="reward.api_key_env",
                next_step=f"export {self.api_key_env}=... before the run starts, or name another variable",
            )
        return key

    def complete(self, messages: Sequence[Message], deadline: float) -> str:
        """What the model answers to the messages, by `time.monotonic() == deadline`."""
        for attempt in range(self.retries + 1):
            try:
                return self._call(messages, deadline)
            except _TryAgainError as failure:
                if attempt == self.retries:
                    raise UnansweredError(f"{failure.reason}, {attempt + 1} times") from failure
                self._wait(failure, attempt, deadline)
        raise AssertionError("the loop returns or raises")

    def count(self, name: str, number: int = 1) -> None:
        """Adds to one of the counts."""
        with self._lock:
            self.counts[name] += number

    def keep_count(self, path: Path) -> None:
        """Counts the calls in a file as well, a byte each, and goes on from those that are there."""
        with self._lock:
            self._ledger = path
            self.counts["calls"] = path.stat().st_size if path.exists() else 0

    def close(self) -> None:
        """Ends waits and connections."""
        self._closed.set()
        with self._lock:
            if self._http is not None:
                self._http.close()
                self._http = None

    def _wait(self, failure: _TryAgainError, attempt: int, deadline: float) -> None:
        # Jitter: calls that were refused together must not come back together.
        seconds = min(FIRST_WAIT_SECONDS * 2**attempt, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)
        seconds = max(seconds, failure.retry_after or 0.0)
        if time.monotonic() + seconds >= deadline:
            raise UnansweredError(f"{failure.reason}; the deadline leaves no time to try again", is_late=True)
        self.count("retries")
        if self._closed.wait(seconds):
            raise UnansweredError("the judge was closed")

    def _call(self, messages: Sequence[Message], deadline: float) -> str:
        import httpx2

        seconds = min(self.call_timeout_seconds, deadline - time.monotonic())
        if seconds <= 0:
            raise UnansweredError("the deadline passed before the question was asked", is_late=True)
        key = self.key()
        with self._lock:
            if self.max_calls is not None and self.counts["calls"] >= self.max_calls:
                raise UnansweredError(f"the budget of {self.max_calls} calls is spent (reward.max_calls)")
            self.counts["calls"] += 1
            if self._ledger is not None:
                with self._ledger.open("ab") as ledger:  # before the call: one that is not answered may cost as well
                    ledger.write(b".")
        body = {"model": self.model, "messages": list(messages), **self.request}
        body = {name: value for name, value in body.items() if value is not None}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        end = time.monotonic() + seconds
        content = bytearray()
        try:
            with self._client().stream("POST", self.url, json=body, headers=headers, timeout=seconds) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    # A read that times out ends the call, but a server that drips a byte now and then does not.
                    if time.monotonic() > end or len(content) > MOST_BYTES:
                        raise _TryAgainError("the judge's answer does not end")
        except httpx2.TimeoutException as error:
            raise _TryAgainError(f"no answer within {seconds:.3g} s ({type(error).__name__})") from error
        except (httpx2.RequestError, httpx2.StreamError, OSError, RuntimeError) as error:
            # RuntimeError: the client was closed meanwhile.
            raise _TryAgainError(f"the connection failed ({type(error).__name__}: {_hide(key, str(error))})") from error
        return self._read(response, bytes(content), key)

    def _read(self, response: httpx2.Response, content: bytes, key: str) -> str:
        """The text of a response."""
        status = response.status_code
        said = _hide(key, content.decode("utf-8", "replace"))[:EXCERPT].strip()
        if status == 401:
            raise ConfigError(
                "the judge refuses the key (HTTP 401)"
                + (f" in the environment variable {self.api_key_env}" if key else ": it asks for one"),
                where="reward.api_key_env",
                next_step=f"set {self.api_key_env} to a valid key of {urlsplit(self.url).netloc}"
                if key
                else "set reward.api_key_env to the name of the environment variable that holds the key",
            )
        if status == 404:
            raise ConfigError(
                f"the judge knows no such endpoint or model (HTTP 404): {said}",
                where="reward.url and reward.model",
                next_step=f"look whether {self.url} serves chat completions of the model {self.model}",
            )
        if status in RETRIED or status >= 500:
            raise _TryAgainError(f"the judge answered HTTP {status}: {said}", _retry_after(response))
        if status != 200:
            # 400 or 403 can be about this question alone (too long, filtered), so they end no run by themselves.
            raise UnansweredError(f"the judge answered HTTP {status}: {said}")
        try:
            answer = json.loads(content)
            text = answer["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise _TryAgainError(f"the judge's answer is no chat completion: {said}") from error
        usage: object = answer.get("usage")
        if isinstance(usage, dict):
            tokens = cast("dict[str, object]", usage).get("total_tokens")
            self.count("tokens", tokens if isinstance(tokens, int) else 0)
        return text if isinstance(text, str) else ""

    def _client(self) -> httpx2.Client:
        import httpx2

        with self._lock:
            if self._http is None:
                self._http = httpx2.Client()
            return self._http


class _TryAgainError(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


def _endpoint(url: str) -> str:
    """The address of chat completions: `url` is the base (".../v1") or the whole."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "the judge's address is no http(s) URL",
            where="reward.url",
            next_step="give the base of an OpenAI-compatible API, as http://localhost:8000/v1",
        )
    if "@" in parts.netloc:
        raise ConfigError(
            "the judge's address holds a password, which would be written into the run's files",
            where="reward.url",
            next_step="put the key into an environment variable and name it in reward.api_key_env",
        )
    plain = url.rstrip("/")
    return plain if plain.endswith(ENDPOINT) else plain + ENDPOINT


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the server asks to wait: it says a number or a date."""
    text = response.headers.get("retry-after", "")
    try:
        return min(max(0.0, float(text)), LONGEST_RETRY_AFTER)
    except ValueError:
        pass
    try:
        seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        return min(max(0.0, seconds), LONGEST_RETRY_AFTER)
    except (ValueError, TypeError):
        return None


def _hide(key: str, text: str) -> str:
    """The text without the key: servers like to repeat a key that they refuse."""
    return text.replace(key, "[redacted]") if key else text
