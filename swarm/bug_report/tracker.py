"""The tracker on GitHub, through PyGithub: search all issues for a marker, open one. Errors say if it may exist."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from oxrl_core.errors import MachineError, OxrlError

if TYPE_CHECKING:
    from github import Github
    from github.Repository import Repository

T = TypeVar("T")

TIMEOUT_SECONDS = 15
SEARCH_SECONDS = 150.0  # of all pages together
LONGEST_WAIT = 20.0  # what is waited for here; a longer pause is the caller's to keep
MOST_WAITS = 2


class TrackerFailure(OxrlError):
    """The tracker could not be asked, or it refused."""

    def __init__(self, what: str, *, may_exist: bool = False, wait_seconds: float = 0.0) -> None:
        super().__init__(what, "GitHub", "try again later, or open the prefilled link")
        self.may_exist = may_exist
        self.wait_seconds = wait_seconds


class Tracker:
    """The issues of one repository."""

    def __init__(self, api: str, repo: str, token: str) -> None:
        import github

        self._name = repo
        self._client: Github = github.Github(
            auth=github.Auth.Token(token),
            base_url=api,
            timeout=TIMEOUT_SECONDS,
            per_page=100,
            retry=None,  # what to repeat, and for how long, is decided here: a repeated POST is a second issue
            user_agent="oxrl-bug-report",
            seconds_between_requests=0,
            seconds_between_writes=0,
        )
        self._repository: Repository | None = None

    def close(self) -> None:
        self._client.close()

    def connect(self) -> None:
        """Looks at the repository, and refuses a token that can do more than it should."""
        try:
            self._repository = _asked(lambda: self._client.get_repo(self._name))
        finally:
            scopes = {scope.strip() for scope in self._client.oauth_scopes or []}
            if scopes & {"repo", "public_repo", "admin:org", "delete_repo", "workflow", "write:packages"}:
                raise MachineError(
                    f"the token is a classic one with the scopes {', '.join(sorted(scopes))}: it can do too much",
                    "GITHUB_TOKEN",
                    "make a fine-grained token with the permission Issues: write on this one repository",
                )

    def issue_with(self, marker: str) -> str:
        """The address of the oldest issue that holds the marker, open or closed; empty where none does."""
        deadline = time.monotonic() + SEARCH_SECONDS
        found = ""
        page = 0
        listing = self._known().get_issues(state="all", sort="created", direction="desc")
        while True:
            number = page
            issues = _asked(lambda number=number: listing.get_page(number))
            for issue in issues:
                if marker in (issue.body or ""):
                    found = issue.html_url
            if not issues:
                return found
            page += 1
            if time.monotonic() > deadline:
                raise TrackerFailure(f"the issues could not all be looked at within {SEARCH_SECONDS:g} s")

    def open_issue(self, title: str, body: str) -> str:
        """The address of the new issue."""
        return _asked(lambda: self._known().create_issue(title=title, body=body).html_url, writes=True)

    def _known(self) -> Repository:
        assert self._repository is not None, "connect first"
        return self._repository


def _asked(question: Callable[[], T], *, writes: bool = False) -> T:
    """The answer; a short pause that the server asks for is kept, a long one is handed on."""
    import github
    import requests

    for attempt in range(MOST_WAITS + 1):
        try:
            return question()
        except github.GithubException as error:
            wait = _pause(error.status, error.headers or {})
            if wait is None:
                raise _refusal(error.status, writes) from None
            if attempt == MOST_WAITS or wait > LONGEST_WAIT:
                raise TrackerFailure(f"it asked for a pause of {wait:.0f} s", wait_seconds=max(wait, 1.0)) from None
            time.sleep(wait)
        except requests.ConnectionError as error:
            refused = "refused" in str(error).lower() or "resolve" in str(error).lower()
            raise TrackerFailure("it cannot be reached", may_exist=writes and not refused) from None
        except (requests.RequestException, OSError, ValueError) as error:
            raise TrackerFailure(f"no usable answer ({type(error).__name__})", may_exist=writes) from None
    raise AssertionError("unreachable")


def _pause(status: int, headers: Mapping[str, str]) -> float | None:
    """The seconds that the server asks to wait; None where it asks for nothing of the kind."""
    if status not in (403, 429, 503):
        return None
    try:
        if "retry-after" in headers:
            return max(0.0, float(headers["retry-after"]))
        if headers.get("x-ratelimit-remaining") == "0":
            return max(1.0, float(headers.get("x-ratelimit-reset", "")) - time.time())
    except ValueError:
        return 60.0
    return 60.0 if status == 429 else None


def _refusal(status: int, writes: bool) -> OxrlError:
    if status == 401:
        return MachineError(
            "the token is not valid", "GITHUB_TOKEN", "make a new fine-grained token with Issues: write"
        )
    if status in (403, 404, 410):
        return MachineError(
            f"the token cannot reach the repository or its issues (HTTP {status})",
            "GITHUB_TOKEN",
            "give it the permission Issues: write on the repository of report.yaml",
        )
    return TrackerFailure(f"HTTP {status}", may_exist=writes and status >= 500)
