"""The secrets that this machine knows, held only as values to remove: of the environment and of known files."""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path

from oxrl_core.redact.patterns import SHORTEST_SECRET

MOST_BYTES = 65_536  # of a file that holds secrets

# A name that ends so holds a secret; one that only contains such a word often holds a switch, a path or a count.
_SURE_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASS|API_?KEY|ACCESS_KEY|PRIVATE_KEY|KEY|CREDENTIALS?)$", re.IGNORECASE
)
_LIKELY_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS|CRED|AUTH", re.IGNORECASE)
_ORDINARY = re.compile(r"[a-z]{1,15}|[-+]?[\d.,_]+|(?i:true|false|none|null|disabled|enabled)")

_WHOLE_FILES = (".cache/huggingface/token", ".huggingface/token", ".ray/auth_token", ".kaggle/access_token")
_MIXED_FILES = (
    ".netrc",
    "_netrc",
    ".cache/huggingface/stored_tokens",
    ".kaggle/kaggle.json",
    ".aws/credentials",
    ".config/gh/hosts.yml",
    ".git-credentials",
    ".docker/config.json",
    ".pypirc",
    ".npmrc",
    ".config/wandb/settings",
    ".config/gcloud/application_default_credentials.json",
    ".modal.toml",
)
_IN_FILE = re.compile(
    r"""(?:pass(?:word|wd)?|token|secret|key|auth|login_token)\w*["']?(?:\s*[:=]\s*|[ \t]+)["']?([^\s"',}]{8,})"""
    r"""|://[^\s/:@]*:([^\s/@]{4,})@|["'](-----BEGIN[^"']+)["']""",
    re.IGNORECASE,
)


def environment_secrets(environment: Mapping[str, str]) -> set[str]:
    """The values of the environment's secrets, known by their names."""
    found: set[str] = set()
    for name, value in environment.items():
        if len(value) < SHORTEST_SECRET or value.startswith(("/", "~", "./")):
            continue
        is_likely = _LIKELY_NAME.search(name) and "TOKENIZER" not in name.upper()
        if _SURE_NAME.search(name) or (is_likely and not _ORDINARY.fullmatch(value)):
            found.add(value)
    return found


def file_secrets(home: Path, environment: Mapping[str, str]) -> set[str]:
    """The values of the secrets in the files where tools of this trade keep theirs."""
    found: set[str] = set()
    whole = [home / name for name in _WHOLE_FILES]
    whole += [Path(environment[name]) for name in ("HF_TOKEN_PATH", "RAY_AUTH_TOKEN_PATH") if environment.get(name)]
    whole += [Path(environment["HF_HOME"]) / "token"] if environment.get("HF_HOME") else []
    mixed = [home / name for name in _MIXED_FILES]
    mixed += [Path(environment[name]) for name in ("NETRC", "AWS_SHARED_CREDENTIALS_FILE") if environment.get(name)]
    mixed += (
        [Path(environment["GOOGLE_APPLICATION_CREDENTIALS"])]
        if environment.get("GOOGLE_APPLICATION_CREDENTIALS")
        else []
    )
    for path in whole:
        value = _content(path).strip()
        if len(value) >= SHORTEST_SECRET:
            found.add(value)
    for path in mixed:
        for match in _IN_FILE.finditer(_content(path)):
            value = next(group for group in match.groups() if group)
            found.update({value, value.replace("\\n", "\n")})
    return found


def _content(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return ""
        return path.read_text(errors="replace")
    except OSError:  # another user's: then it is no secret of this process either
        return ""


def spellings(values: Iterable[str]) -> list[str]:
    """Every way in which the values may stand in a text: plain, in JSON, in a URL, in base64 and hexadecimal."""
    found: set[str] = set()
    for value in values:
        lines = [line.strip() for line in value.splitlines()]
        # The lines of a key in a file stand one by one in a log that is indented or cut.
        for one in {
            value,
            value.strip(),
            *(line for line in lines if len(line) >= 16 and not line.startswith("-----")),
        }:
            if len(one) < SHORTEST_SECRET:
                continue
            found.update({html.escape(one), html.escape(one, quote=False)})
            found.update({one, repr(one)[1:-1], json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1]})
            found.add(json.dumps(json.dumps(one)[1:-1])[1:-1])
            found.update({urllib.parse.quote(one, safe=""), urllib.parse.quote(one), urllib.parse.quote_plus(one)})
            found.update(quoted.lower() for quoted in (urllib.parse.quote(one, safe=""),) if one.islower())
            data = one.encode()
            found.update({data.hex(), data.hex().upper()})
            for spelled in (base64.b64encode, base64.urlsafe_b64encode):
                found.update(
                    _inside_base64(spelled(bytes(before) + data).decode(), before, len(data)) for before in range(3)
                )
    return sorted((one for one in found if len(one) >= SHORTEST_SECRET), key=lambda one: (-len(one), one))


def _inside_base64(encoded: str, before: int, length: int) -> str:
    """The characters that depend on the value alone, when `before` bytes stand in front of it."""
    first = (before * 8 + 5) // 6
    last = (before + length) * 8 // 6
    return encoded[first:last]
