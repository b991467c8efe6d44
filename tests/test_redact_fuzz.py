"""Secrets of 30 kinds in six spellings: no eight characters in a row of any of them are left; ordinary text is."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
import urllib.parse
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oxrl_core.redact import Redactor
from oxrl_core.redact.personal import Person, without_person
from oxrl_core.redact.values import file_secrets

ALNUM = string.ascii_letters + string.digits
WORDY = ALNUM + "_-"
HEX = "0123456789abcdef"


def letters(alphabet: str, count: int, draw: random.Random) -> str:
    """Random characters, a digit among them wherever the alphabet has one."""
    made = [draw.choice(alphabet) for _ in range(count)]
    if "7" in alphabet:
        made[draw.randrange(count)] = "7"
    return "".join(made)


# kind -> (the text it stands in, with {} for the secret; alphabet; length). `|` before {}: a prefix of the secret.
KINDS = {
    "hugging face": ("{}", "hf_", string.ascii_letters, 34),
    "hugging face organisation": ("{}", "api_org_", string.ascii_letters, 34),
    "github personal": ("{}", "ghp_", ALNUM, 36),
    "github oauth": ("{}", "gho_", ALNUM, 36),
    "github user": ("{}", "ghu_", ALNUM, 36),
    "github server, long": ("{}", "ghs_", ALNUM, 120),
    "github refresh": ("{}", "ghr_", ALNUM, 76),
    "github fine-grained": ("{}", "github_pat_", ALNUM + "_", 82),
    "gitlab": ("{}", "glpat-", WORDY, 20),
    "anthropic": ("{}", "sk-ant-api03-", WORDY, 95),
    "openai project": ("{}", "sk-proj-", WORDY, 150),
    "openai service": ("{}", "sk-svcacct-", WORDY, 120),
    "aws id": ("{}", "AKIA", string.ascii_uppercase + "234567", 16),
    "aws session id": ("{}", "ASIA", string.ascii_uppercase + "234567", 16),
    "aws secret": ("aws_secret_access_key = {}", "", ALNUM + "/+", 40),
    "google": ("{}", "AIza", WORDY, 35),
    "google client": ("{}", "GOCSPX-", WORDY, 28),
    "slack": ("{}", "xoxb-", string.digits + "-" + string.ascii_letters, 50),
    "stripe": ("{}", "sk_live_", ALNUM, 24),
    "npm": ("{}", "npm_", ALNUM, 36),
    "pypi": ("{}", "pypi-AgEIcHlwaS5vcmc", WORDY, 150),
    "sendgrid": ("{}", "SG.7aaaaaaaaaaaaaaaaaaaaa.", WORDY, 43),
    "json web token": ("{}", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.", WORDY, 43),
    "wandb": ("WANDB_API_KEY={}", "", HEX, 40),
    "wandb in a sentence": ("wandb: your key is {}", "", HEX, 40),
    "private key": ("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", "", ALNUM + "+/", 120),
    "userinfo": ("https://someone:{}@host.example/x", "", ALNUM, 20),
    "bearer": ("Authorization: Bearer {}", "", ALNUM + "._-", 40),
    "password": ("password={}", "", ALNUM + "!*+", 16),
    "azure": ("AccountKey={}==", "", ALNUM + "+/", 86),
    "signed address": ("https://bucket.example/o?X-Amz-Signature={}&x=1", "", HEX, 64),
}
SURROUNDINGS = ("{}", "before {} after", "x = '{}'", "loading\n{}\nstep 3", 'error: "{}", giving up', "[{}]", "({}),")


def plain(text: str, _: random.Random) -> str:
    return text


def in_json(text: str, _: random.Random) -> str:
    return json.dumps({"message": f"it said\n{text}"})


def in_url(text: str, _: random.Random) -> str:
    return "https://collector.example/report?message=" + urllib.parse.quote(text, safe="")


def in_base64(text: str, _: random.Random) -> str:
    return "payload " + base64.b64encode(text.encode()).decode() + " end"


def ansi_split(text: str, draw: random.Random) -> str:
    for _ in range(3):
        place = draw.randrange(len(text) + 1)
        if "\x1b" not in text[max(0, place - 6) : place + 6]:
            text = text[:place] + "\x1b[1;31m" + text[place:]
    return text


def wrapped(text: str, draw: random.Random) -> str:
    width = draw.randrange(24, 100)
    lines = [line[start : start + width] for line in text.split("\n") for start in range(0, max(1, len(line)), width)]
    return ("\n" + draw.choice(("", "  "))).join(lines)


SPELLINGS = (plain, in_json, in_url, in_base64, ansi_split, wrapped)


def leaks(secret: str, text: str) -> list[str]:
    """Runs of eight characters of the secret that the text still holds, in the spellings of a reader who knows them."""
    shown = "".join(text.split())
    shown += urllib.parse.unquote(shown)
    for word in text.split():
        try:
            shown += base64.b64decode(word, validate=True).decode("latin-1")
        except ValueError:
            continue
    return [secret[start : start + 8] for start in range(len(secret) - 7) if secret[start : start + 8] in shown]


@pytest.mark.parametrize("spell", SPELLINGS, ids=lambda spell: spell.__name__)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_no_secret_of_a_known_kind_is_left(kind: str, spell, seed: int) -> None:
    draw = random.Random(seed)
    place, prefix, alphabet, length = KINDS[kind]
    payload = letters(alphabet, length, draw)
    text = spell(draw.choice(SURROUNDINGS).replace("{}", place.replace("{}", prefix + payload)), draw)
    assert leaks(payload, Redactor({}).text(text)) == []
    assert leaks(payload, Redactor({}).shown(text)) == []


@settings(max_examples=60)
@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=60),
    seed=st.integers(0, 999),
)
@example(secret='q"uo\\te/+=%20&x', seed=1)
def test_no_value_of_the_environment_is_left_whatever_it_looks_like(secret: str, seed: int) -> None:
    if secret.startswith(("/", "~", "./")):
        return
    redactor = Redactor({"SOME_SERVICE_TOKEN": secret})
    for spell in SPELLINGS:
        if spell is wrapped:
            continue  # of an arbitrary string nobody can tell that two lines are one word
        text = spell(f"it said {secret} there", random.Random(seed))
        assert secret not in redactor.text(text)
        assert leaks(secret, redactor.text(text)) == [], spell.__name__
    assert secret.encode().hex() not in redactor.text(f"bytes {secret.encode().hex()}")
    assert leaks(secret, redactor.text(f"Basic {base64.b64encode(f'me:{secret}'.encode()).decode()}")) == []


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_commits_identities_and_tensors_stay(seed: int) -> None:
    draw = random.Random(seed)
    digest = hashlib.sha256(str(seed).encode())
    lines = [
        f"commit {digest.hexdigest()[:40]}",
        f"  revision: {digest.hexdigest()[:40]} sha256:{digest.hexdigest()}",
        f"run {uuid.UUID(int=draw.getrandbits(128))} of {draw.randrange(1000)}",
        f"tensor([{', '.join(f'{draw.uniform(-1, 1):.4f}' for _ in range(12))}], dtype=torch.float32)",
        " ".join(f"{draw.uniform(-9, 9):.8e}" for _ in range(8)),
        base64.b64encode(draw.randbytes(300)).decode(),
        f"num_tokens: {draw.randrange(10**9)} tokens_per_second={draw.uniform(0, 1e5):.3f}",
        "eos_token='<|im_end|>' pad_token=<pad> bos_token: [BOS] token: 151643 max_token=512",
        "special_tokens_map.json tokenizer.json: Qwen/Qwen3-0.6B key: train.lr value 1e-06",
        f"step {draw.randrange(999)}  reward/mean {draw.random():.4f}  loss {draw.random():.3e}",
        f"(LearnerWorker pid={draw.randrange(99999)}) INFO 11-21 19:{draw.randrange(60):02}:01 loader.py:7",
        "https://huggingface.co/Qwen/Qwen3-0.6B/resolve/main/config.json?download=true",
    ]
    draw.shuffle(lines)
    text = "\n".join(lines)
    assert Redactor({}).text(text) == text


def test_a_key_that_was_cut_at_either_end_is_masked() -> None:
    body = "\n".join(letters(ALNUM, 64, random.Random(row)) for row in range(6))
    for text in (f"-----BEGIN RSA PRIVATE KEY-----\n{body}", f"{body}\n-----END RSA PRIVATE KEY-----\nstep 3"):
        assert leaks(body.replace("\n", ""), Redactor({}).text(text)) == []
    assert Redactor({}).text(f"{body}\n-----END RSA PRIVATE KEY-----\nstep 3").endswith("\nstep 3")


def test_secrets_of_known_files_are_known_as_values(tmp_path) -> None:
    files = {
        ".cache/huggingface/token": "plainsecret-a1\n",
        ".ray/auth_token": "plainsecret-b2",
        ".netrc": "machine api.wandb.ai\n  login user\n  password plainsecret-c3\n",
        ".kaggle/kaggle.json": '{"username": "someone", "key": "plainsecret-d4"}',
        ".aws/credentials": "[default]\naws_access_key_id = plainsecret-e5\naws_secret_access_key = plainsecret/f6\n",
        ".git-credentials": "https://someone:plainsecret-g7@github.com\n",
        ".npmrc": "//registry.npmjs.org/:_authToken=plainsecret-h8\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "elsewhere").write_text("plainsecret-i9")
    found = file_secrets(tmp_path, {"HF_TOKEN_PATH": str(tmp_path / "elsewhere")})
    redactor = Redactor({}, found)
    for secret in (f"plainsecret{tail}" for tail in ("-a1", "-b2", "-c3", "-d4", "-e5", "/f6", "-g7", "-h8", "-i9")):
        assert secret not in redactor.text(f"the value {secret} here"), secret


def test_switches_of_the_environment_are_no_secrets() -> None:
    redactor = Redactor(
        {"RAY_AUTH_MODE": "disabled", "MAX_TOKENS_TOTAL": "1000000000", "TOKENIZER_NAME": "Qwen/Qwen3-0.6B"}
    )
    text = "it is disabled with 1000000000 tokens of Qwen/Qwen3-0.6B"
    assert redactor.text(text) == text


def test_values_under_the_name_of_a_secret_are_masked_in_trees() -> None:
    tree = {
        "api_key": "zzzz1111zzzz",
        "key": "train.lr_schedule1",
        "eos_token": "endoftext1",
        "password": "hunter2hunter2",
    }
    assert Redactor({}).tree(tree) == {**tree, "api_key": "[redacted]", "password": "[redacted]"}


def test_a_long_text_is_read_in_linear_time() -> None:
    import time

    for text in (
        "a-" * 100_000,
        "A" * 200_000,
        "0123456789abcdef\n" * 12_000,
        "-----BEGIN PRIVATE KEY-----" * 400,
        "token=" * 20_000,
    ):
        begun = time.process_time()
        Redactor({}).text(text)
        assert time.process_time() - begun < 8


def test_people_and_machines_are_masked_for_what_is_published() -> None:
    person = Person("/srv/people/mwalker", ("mwalker",), ("gpu-node-17.lab", "gpu-node-17"))
    text = "/srv/people/mwalker/x /home/jane/y MWalker at gpu-node-17 10.1.2.3 ::1 127.0.0.1 "
    text += "fe80::1ff:fe23:4567:890a a.b@c.org"
    assert without_person(text, person) == "~/x ~/y [user] at [host] [address] ::1 127.0.0.1 [address] [e-mail]"
    kept = "12:30:45 std::vector 2.13.0 0.19.7 a::b step 1:2:3 /srv/people/mwalkerson"
    assert without_person(kept, person) == kept
