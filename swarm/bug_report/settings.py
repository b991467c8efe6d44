"""What the operator of this machine allows: <home>/report.yaml. No argument of a call can say otherwise."""

from __future__ import annotations

import stat
import urllib.parse
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from oxrl_core.errors import ConfigError

FILE = "report.yaml"
MOST_BYTES = 16_384
GITHUB_API = "https://api.github.com"


class ReportSettings(BaseModel):
    """Whether reports may be sent, where to, and how many."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    enabled: bool = False
    repo: str = Field(default="", pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9_.-]{1,100})?$")
    max_per_day: int = Field(default=3, ge=1, le=1000)
    api: str = GITHUB_API

    @field_validator("api")
    @classmethod
    def _is_safe(cls, address: str) -> str:
        """A token travels there: https, or a server on this machine."""
        parts = urllib.parse.urlsplit(address)
        is_loopback = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not (is_loopback or (parts.scheme == "https" and parts.hostname)) or parts.username or parts.query:
            raise ValueError("an https address, or http on 127.0.0.1")
        return address.rstrip("/")

    @property
    def web(self) -> str:
        """Where a person opens an issue."""
        if self.api == GITHUB_API:
            return "https://github.com"
        parts = urllib.parse.urlsplit(self.api)
        return f"{parts.scheme}://{parts.netloc}"


def read_settings(home: Path) -> ReportSettings:
    """The operator's settings; without a file nothing is sent."""
    path = home / FILE
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ReportSettings()
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}", str(path), "mend its permissions") from error
    if facts.st_mode & stat.S_IWOTH:
        raise ConfigError("anybody may write it", str(path), f"chmod o-w {path}")
    if facts.st_size > MOST_BYTES:
        raise ConfigError("it is too long to be a report.yaml", str(path), "write enabled, repo, max_per_day")
    from oxrl_core.config.yaml_text import read_mapping

    try:
        mapping = read_mapping(path.read_text(), path.name).mapping
        settings = ReportSettings.model_validate(dict(mapping))
    except (UnicodeDecodeError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else "it is not UTF-8"
        raise ConfigError(what, str(path), "it takes enabled, repo (owner/name), max_per_day, api") from None
    if settings.enabled and not settings.repo:
        raise ConfigError("enabled without a repo", str(path), "add repo: owner/name")
    return settings
