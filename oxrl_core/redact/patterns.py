"""Secrets known by their looks: formats of issuers, values behind a telling name, userinfo of URLs, also in base64."""

from __future__ import annotations

import base64
import binascii
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator

MASK = "[redacted]"
SHORTEST_SECRET = 8  # shorter values ("true", "4") would mask ordinary words

Span = tuple[int, int]

# What may stand right before a secret: no word, or the end of an escape of JSON or of a URL ("\nhf_...", "%3Dhf_...").
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4})|(?<=\\x[0-9A-Fa-f]{2}))"


def _spread(word: str) -> str:
    """The word, however its letters are wrapped."""
    return r"\s*".join(word)


_GAP = r"(?:[\s+]|%20)*"
_KEY_NAME = rf"{_GAP}[A-Z0-9\s+%]{{0,40}}{_spread('PRIVATE')}{_GAP}{_spread('KEY')}(?:{_GAP}{_spread('BLOCK')})?\s*"
_KEY_BEGIN = _spread("-----BEGIN") + _KEY_NAME + _spread("-----")
_KEY_STOP = _spread("-----END") + _KEY_NAME + _spread("-----")

# Exact lengths come first: a secret that is wrapped over two lines must not take the word after it along.
_FORMATS = re.compile(
    _START
    + r"""(?:
      hf_[A-Za-z0-9]{34}(?![A-Za-z0-9]) | hf_[A-Za-z0-9]{16,} | api_org_[A-Za-z0-9]{20,}   # Hugging Face
    | gh[pousr]_[A-Za-z0-9]{36}(?![A-Za-z0-9_.-]) | gh[pousr]_[A-Za-z0-9_.-]{20,} | github_pat_\w{20,}
    | gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent)-[\w-]{16,}
    | (?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}        # Stripe
    | whsec_[A-Za-z0-9+/=]{20,}
    | sk-[A-Za-z0-9_-]{16,}                              # OpenAI, Anthropic, OpenRouter
    | AIza[\w-]{30,} | GOCSPX-[\w-]{20,} | ya29\.[\w.-]{20,} | 1//0[\w-]{20,}              # Google
    | (?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Z])    # AWS
    | xox[abeoprs]-[\w-]{10,} | xapp-[\w-]{10,} | xoxe\.[\w.-]{10,}                        # Slack
    | npm_[A-Za-z0-9]{30,} | pypi-AgE[\w-]{20,} | rubygems_[a-f0-9]{40,} | dckr_pat_[\w-]{20,}
    | SG\.[\w-]{16,}\.[\w-]{16,}                         # SendGrid
    | dapi[a-f0-9]{32} | do[oprt]_v1_[a-f0-9]{32,} | shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}
    | hv[sbr]\.[\w-]{20,} | dp\.(?:pt|st|ct|sa)\.[\w.-]{20,} | tskey-[\w-]{16,}
    | (?:gsk|xai|nvapi|pplx|r8|lin_api|lsv2_[a-z]+|fw|tvly|wandb_v\d|KGAT|csk|fc)[_-](?=[\w-]*\d)[\w-]{24,}
    | AGE-SECRET-KEY-1[0-9A-Z]{20,} | PMAK-[a-f0-9-]{30,} | NRAK-[A-Z0-9]{20,} | glsa_\w{20,}
    | \d{8,10}:AA[\w-]{32,}                              # Telegram
    | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}                 # JSON web token
    )
    | """
    + _KEY_BEGIN
    + r"""(?:(?:(?!-----BEGIN).){0,20000}?"""
    + _KEY_STOP
    + r"""|(?:[A-Za-z0-9+/=\s:,-]|\\[nr]|%[0-9A-F]{2}){0,20000})
    | https?://hooks\.slack\.com/(?:services|workflows)/[\w/-]{10,}
    | https?://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/[\w/-]{10,}
    """,
    re.VERBOSE | re.DOTALL,
)

# A key whose first lines were cut away: its lines are walked back from the end.
_KEY_END = re.compile(r"-----END[ ][A-Z0-9 ]{0,40}PRIVATE[ ]KEY(?:[ ]BLOCK)?-----")
_KEY_LINE = re.compile(r"(?:^|(?<=[\n ])|(?<=\\n))[A-Za-z0-9+/=]{4,}[ \t]*(?:\r?\n|\\n)[ \t]*\Z")

# The name stays, the value goes: the reader still learns which secret was there.
_NAMED = re.compile(
    r"""(?P<name>
          (?i:pass(?:word|wd|phrase|code)|pwd|secret|token|credentials?
            |api[_-]?key|apikey|access[_-]?key(?:[_-]?id)?|private[_-]?key|secret[_-]?key|account[_-]?key
            |auth[_-]?key|signing[_-]?key|encryption[_-]?key|shared[_-]?access[_-]?key)
        | (?<=_)KEY | (?<=_)PASS | (?<=_)AUTH )
        (?:\\?["'])?[ \t]{0,4}(?:=>|[=:]|%3[AaDd])[ \t]{0,4}
        (?:(?P<quote>\\?["'])(?P<quoted>(?:(?!(?P=quote))[^\n]){6,400})
          | (?:%2[27]|%20|\\?["'])?(?P<bare>[^\s"',;&<>\\%](?:[^\s"',;&<>\\]){5,}))""",
    re.VERBOSE,
)
# Switches of command lines: `--api-key VALUE`, `--password VALUE`.
_ARGUMENT = re.compile(
    r"""--?[\w-]{0,30}(?:password|passwd|secret|token|api-?key|access-?key|private-?key)(?:["'],)?[ \t]+["']?"""
    r"""(?P<value>[^\s"',;-][^\s"',;]{7,})""",
    re.IGNORECASE,
)
# Forty or thirty-two hexadecimal digits are a commit unless the line says whose key they are.
_OWNED_HEX = re.compile(
    r"(?:wandb|weights.{0,3}biases|kaggle|datadog|comet|neptune|mailgun|heroku)(?s:.){0,40}?"
    r"(?<![0-9a-f])(?P<value>[0-9a-f]{40}|[0-9a-f]{32})(?![0-9a-f])",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"(?:(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token|digest|negotiate)|\bbearer)"
    r"(?:\s|%20|\+)+(?P<value>[\w.~+/=%-]{8,})"
    r"|\bx-(?:api-key|auth-token|access-token|goog-api-key)[\"']?\s*[:=]\s*[\"']?(?P<header>[^\s\"',;]{8,})",
    re.IGNORECASE,
)
_URL_USER = re.compile(r"(?:://|%3A%2F%2F)(?P<value>[^\s/@\"'<>]{1,400}?)(?:@|%40)", re.IGNORECASE)
_URL_QUERY = re.compile(
    r"[?&;](?:access_token|refresh_token|id_token|token|sig|signature|key|api_?key|auth|password|client_secret|code"
    r"|x-amz-(?:signature|credential|security-token)|x-goog-signature)=(?P<value>[^&\s\"'<>#]{8,})",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{20,}(?:={1,2}|(?:%3[Dd]){1,2})?")

# What every secret above has: a telling name, a sign between name and value, an escape, or a run of many characters.
_SUSPECT = re.compile(r"[=%@\\]|://|-\s*-|[\w.+/~-]{14}|pass|pwd|secret|token|cred|key|auth|bearer|x-", re.IGNORECASE)

# Tokens of a tokenizer are no secrets, whatever follows them.
_TOKENIZER_NAME = re.compile(
    r"(?:eos|bos|pad|unk|sep|cls|mask|image|video|audio|special|stop|end|start|next|last|first|chat|per|max|min|num|added"
    r"|prompt|new|any|each|every|this|the|a)[_ -]?$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[-+]?[\d_.,]+(?:[eE][-+]?\d+)?$")
_NO_SECRET = ("<", "[", "(", "{", "$", "/", "~/", "%(", "./", "../", "***", "...")


def may_hold_secret(text: str) -> bool:
    """False for most words of an answer: nothing below, nor a wrapped or hidden spelling of it, can stand in them."""
    return not text.isprintable() or _SUSPECT.search(text) is not None


def secret_spans(text: str) -> Iterator[Span]:
    """Where secrets stand that are known by their looks."""
    yield from plain_spans(text)
    for match in _BASE64.finditer(text):
        if _hides_secret(match[0]):
            yield match.span()


def plain_spans(text: str) -> Iterator[Span]:
    """The same without a look into base64."""
    for match in _FORMATS.finditer(text):
        yield match.span()
    for match in _KEY_END.finditer(text):
        yield _begin_of_cut_key(text, match.start()), match.end()
    for match in _NAMED.finditer(text):
        if _is_named_secret(match, text):
            yield match.span("quoted" if match["quoted"] is not None else "bare")
    for match in _ARGUMENT.finditer(text):
        if looks_secret(match["value"]):
            yield match.span("value")
    for match in _AUTHORIZATION.finditer(text):
        group = "header" if match["header"] is not None else "value"
        # "a bearer of something": a credential is no word.
        if group == "header" or ":" in match[0] or "=" in match[0][:16] or not match["value"].isalpha():
            yield match.span(group)
    for pattern in (_OWNED_HEX, _URL_USER, _URL_QUERY):
        for match in pattern.finditer(text):
            yield match.span("value")


def _begin_of_cut_key(text: str, end: int) -> int:
    """Where the lines of a key begin that ends here."""
    first = max(0, end - 8192)
    while end > first:
        line = _KEY_LINE.search(text[max(first, end - 200) : end])
        if line is None:
            break
        end -= len(line[0])
    return end


def format_at(text: str, start: int) -> Span | None:
    """The secret of a known format that begins right here, whatever stands before it."""
    match = _FORMATS.match(text[start : start + 4096])
    return None if match is None else (start, start + match.end())


@functools.lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Whether a key of a mapping says that its value is a secret."""
    match = _NAMED.search(f"{name}=xxxxxxxx")
    return (
        match is not None and match.end("name") == len(name) and not _TOKENIZER_NAME.search(name[: match.start("name")])
    )


def looks_secret(value: str) -> bool:
    """Whether a value behind a telling name can be a secret: no number, path, placeholder or plain word."""
    if len(value) < SHORTEST_SECRET or " " in value or value.startswith(_NO_SECRET) or _NUMBER.match(value):
        return False
    if value.isalpha():
        return len(value) >= 20 and entropy(value) > 3.5
    return any(character.isdigit() for character in value) or entropy(value) > 3.0


def entropy(text: str) -> float:
    """Bits per character by the text's own frequencies."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def _is_named_secret(match: re.Match[str], text: str) -> bool:
    name, value = match["name"], match["quoted"] if match["quoted"] is not None else match["bare"]
    if value.startswith(MASK):
        return False
    if name.isupper():  # an environment variable
        return len(value) >= SHORTEST_SECRET and not value.startswith(("/", "~", "<", "$")) and not _NUMBER.match(value)
    if name.lower().startswith(("pass", "pwd")) and match["quoted"] is not None:
        return not value.startswith(_NO_SECRET)
    if name.lower() in ("token", "key") and _TOKENIZER_NAME.search(text[max(0, match.start() - 10) : match.start()]):
        return False
    if name.lower().endswith("key") and len(value) >= 30 and value[0] == "/" and "." not in value:
        return looks_secret(value.lstrip("/"))  # base64 that begins like a path
    if name.lower().startswith(("pass", "pwd", "secret")):
        return not value.startswith(_NO_SECRET) and not _NUMBER.match(value)
    return looks_secret(value)


def _hides_secret(run: str) -> bool:
    """Whether base64 holds readable text with a secret in it. Hashes and tensors decode to no text."""
    body = run.replace("%3D", "").replace("%3d", "").rstrip("=").replace("-", "+").replace("_", "/")
    for start in range(4):  # a run can begin with letters of the word before it
        part = body[start:]
        part = part[: len(part) - 1] if len(part) % 4 == 1 else part
        try:
            decoded = base64.b64decode(part + "=" * (-len(part) % 4))
        except (binascii.Error, ValueError):
            continue
        if len(decoded) < SHORTEST_SECRET or sum(
            32 <= byte < 127 or byte in (9, 10, 13) for byte in decoded
        ) < 0.9 * len(decoded):
            continue
        if next(plain_spans(decoded.decode("latin-1")), None) is not None:
            return True
    return False
