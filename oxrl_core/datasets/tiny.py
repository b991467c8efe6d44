"""Built-in tasks that a miniature model learns in a minute, made on the spot.

Which prompts are held out is a matter of the prompt alone, never of the seed: supervised training with one seed and RL
with another must not see each other's test.
"""

from __future__ import annotations

import hashlib
import itertools

from oxrl_core.datasets.base import dataset
from oxrl_core.types import Row

HELD_OUT = 6  # one prompt of six is in the eval split

SPLITS = ("train", "eval")
RANKED_PAIRS = 16  # drawn for each prompt of reverse3-ranked; those that tie are left out


@dataset("reverse3", splits=SPLITS)
def reverse3(split: str, seed: int) -> list[Row]:
    """Reverse three digits of 0-5: "420>" -> "024". 180 rows to train on, 36 held out."""
    # With the digits 0-4 there are 100 prompts to train on: the model knows those by heart and fails the held-out ones.
    return _rows("012345", 3, split, reverse=True)


@dataset("reverse4", splits=SPLITS)
def reverse4(split: str, seed: int) -> list[Row]:
    """Reverse four digits of 0-4: "4201>" -> "1024". 521 rows to train on, 104 held out."""
    return _rows("01234", 4, split, reverse=True)


@dataset("copy3", splits=SPLITS)
def copy3(split: str, seed: int) -> list[Row]:
    """Copy three digits: "927>" -> "927". 834 rows to train on, 166 held out."""
    return _rows("0123456789", 3, split, reverse=False)


@dataset("reverse3-pairs", splits=SPLITS)
def reverse3_pairs(split: str, seed: int) -> list[Row]:
    """The prompts of reverse3, each with the right answer preferred to a wrong one: "420>" -> "024" above "513"."""
    return [
        {"prompt": row["prompt"], "chosen": row["answer"], "rejected": _wrong(row)} for row in reverse3(split, seed)
    ]


@dataset("reverse3-labeled", splits=SPLITS)
def reverse3_labeled(split: str, seed: int) -> list[Row]:
    """The prompts of reverse3, each with the right answer (desirable) and with a wrong one (not): 360 and 72 rows."""
    rows: list[Row] = []
    for row in reverse3(split, seed):
        rows.append({"prompt": row["prompt"], "completion": row["answer"], "label": True})
        rows.append({"prompt": row["prompt"], "completion": _wrong(row), "label": False})
    return sorted(rows, key=lambda row: _hash(f"{row['prompt']}{row['completion']}"))  # a prompt's two rows apart


@dataset("reverse3-ranked", splits=SPLITS)
def reverse3_ranked(split: str, seed: int) -> list[Row]:
    """Drafts for the prompts of reverse3 in pairs, the one with more right positions preferred; 16 or less a prompt."""
    # Right against random answers would teach a reward model nothing about answers that are almost right.
    rows: list[Row] = []
    for row in reverse3(split, seed):
        for number in range(RANKED_PAIRS):
            drafts = [_draft(row, f"{number}{side}") for side in "ab"]
            better, worse = sorted(drafts, key=lambda draft: -_right_positions(draft, row["answer"]))
            margin = _right_positions(better, row["answer"]) - _right_positions(worse, row["answer"])
            if margin:
                rows.append({"prompt": row["prompt"], "chosen": better, "rejected": worse, "margin": float(margin)})
    return sorted(rows, key=lambda row: _hash(f"{row['prompt']}{row['chosen']}{row['rejected']}"))


@dataset("digits-text", splits=SPLITS)
def digits_text(split: str, seed: int) -> list[Row]:
    """Texts of digits that count on in equal steps modulo 6: "024024024...". 180 to train on, 36 held out."""
    # What is held out is how a text begins: a longer copy of a text that was trained on would be no test.
    beginnings = sorted(((start, step) for start in range(6) for step in range(6)), key=lambda pair: _hash(str(pair)))
    num_eval = len(beginnings) // HELD_OUT
    return [
        {"text": "".join(str((start + step * place) % 6) for place in range(length))}
        for start, step in (beginnings[:num_eval] if split == "eval" else beginnings[num_eval:])
        for length in range(14, 26, 2)
    ]


def _rows(digits: str, length: int, split: str, *, reverse: bool) -> list[Row]:
    """The prompts of a split, in an order that looks random and never changes."""
    words = sorted(_words(digits, length), key=lambda word: _hash(f"{word}>"))
    num_eval = len(words) // HELD_OUT
    chosen = words[:num_eval] if split == "eval" else words[num_eval:]
    return [_row(word, word[::-1] if reverse else word) for word in chosen]


def _wrong(row: Row) -> str:
    """An answer of the same length that is wrong, always the same one for a row."""
    others = [word for word in _words("012345", len(row["answer"])) if word != row["answer"]]
    return min(others, key=lambda word: _hash(f"{row['prompt']}{word}?"))


def _draft(row: Row, label: str) -> str:
    """An answer of which each character is right at least half of the time, and one in six lacks its last."""
    digest = _hash(f"{row['prompt']}{label}")
    answer: str = row["answer"]
    drawn = ["012345"[byte % 6] for byte in digest[: len(answer)]]
    kept = [right if byte < 128 else other for right, other, byte in zip(answer, drawn, digest[8:], strict=False)]
    return "".join(kept[:-1] if digest[16] < 256 // 6 else kept)


def _right_positions(draft: str, answer: str) -> int:
    """Characters at their place, and one for the right end."""
    return sum(a == b for a, b in zip(draft, answer, strict=False)) + (len(draft) == len(answer))


def _words(digits: str, length: int) -> list[str]:
    return ["".join(word) for word in itertools.product(digits, repeat=length)]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _row(word: str, answer: str) -> Row:
    return {"prompt": f"{word}>", "completion": answer, "answer": answer}
