"""Did you mean: the nearest known word for a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A sentence with a leading space that names the nearest candidate, or nothing where none is near."""
    nearest = closest(word, candidates)
    return f" Did you mean '{nearest}'?" if nearest else ""


def closest(word: str, candidates: Iterable[str]) -> str:
    """The candidate most like the word, or "" where none is like it."""
    # Underscores, hyphens and case are the commonest slips: they must not count as differences.
    plain = {_plain(candidate): candidate for candidate in sorted(candidates)}
    found = get_close_matches(_plain(word), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
