"""Secrets are masked wherever they stand; ordinary text is left as it is."""

from __future__ import annotations

import pytest

from oxrl_core.redact import MASK, Redactor

NOTHING = Redactor({})


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "aB3" * 10,
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a_B2" * 10,
        "sk-ant-api03-" + "x9" * 20,
        "AIza" + "Sy" * 17,
        "AKIA" + "ABCD1234" * 2,
        "xoxb-123456789012-abcdef",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_known_formats_are_masked_anywhere(secret: str) -> None:
    assert NOTHING.text(f"before {secret} after") == f"before {MASK} after"
    assert secret not in NOTHING.text(f'{{"key":"{secret}"}}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HF_TOKEN=abcdefgh1234", f"HF_TOKEN={MASK}"),
        ('"GITHUB_TOKEN": "abcdefgh1234"', f'"GITHUB_TOKEN": "{MASK}"'),
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {MASK}"),
        ("https://user:pass@example.org/x", f"https://{MASK}@example.org/x"),
    ],
)
def test_named_secrets_keep_their_name(text: str, expected: str) -> None:
    assert NOTHING.text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "rollout.max_completion_tokens=512",
        "num_tokens: 123456789",
        "TOKENIZERS_PARALLELISM=false",
        "commit 0123456789abcdef0123456789abcdef01234567",
        "https://example.org/a@b",
        "reward/mean 0.97\n\tstep 3",
        "it's a basic bearer of news",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert NOTHING.text(text) == text


def test_values_of_own_secrets_are_masked_whole() -> None:
    redactor = Redactor(
        {
            "A_TOKEN": "longsecret",
            "B_SECRET": "longsecret-and-more",
            "SSH_KEY": "/home/me/.ssh/id",
            "X_TOKEN": "true",
            "PLAIN": "ordinary",
        }
    )
    assert (
        redactor.text("longsecret-and-more longsecret ordinary true /home/me/.ssh/id")
        == f"{MASK} {MASK} ordinary true /home/me/.ssh/id"
    )


def test_terminal_codes_and_hidden_characters_are_removed() -> None:
    assert (
        NOTHING.text("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07 a\u200bb\u202ec\u2066\U000e0041\r\x00")
        == "red link abc"
    )


def test_trees_are_masked_in_keys_and_values() -> None:
    secret = "hf_" + "x" * 30
    assert NOTHING.tree({"a": [secret, 1, None, {secret: True}]}) == {"a": [MASK, 1, None, {MASK: True}]}


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("wandb: your key is 776d420a557d7a54b8740a302ce3f532bb04e4d\n  f", "776d420a557d7a54b8740a302ce3f532bb04e4d"),
        ("[wandb: your key is 8dbd2056281bd6f8a7d1f1dc4fda9745a21f78e\nd]", "8dbd2056281bd6f8a7d1f1dc4fda9745a21f78e"),
        ("aws_secret_access_key = //6xmjiFjBsGc0ukvpAlgOe29YamqB7fv798Hnk9", "6xmjiFjBsGc0ukvpAlgOe29YamqB7fv798Hnk9"),
        ("Authorization: Bearer\n nFe7utv7m6jZ381TRCJd.igZL8Qy\n9Fs6nwWdxLS1", "9Fs6nwWdxLS1"),
    ],
)
def test_a_secret_whose_last_letters_stand_in_the_next_line_is_masked(text: str, secret: str) -> None:
    assert secret not in NOTHING.text(text)


def test_own_values_are_masked_in_a_page_whose_code_stays() -> None:
    page = "<script>let token='abc12345xyz'</script><p>quo&quot;ted&amp;secret and hidden-value-9</p>"
    redactor = Redactor({"A_TOKEN": 'quo"ted&secret', "B_TOKEN": "hidden-value-9"})
    expected = f"<script>let token='abc12345xyz'</script><p>{MASK} and {MASK}</p>"
    assert redactor.without_own(page) == expected
