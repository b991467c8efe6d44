"""Sixty thousand generated secrets, none of which may be left: `python benchmarks/redact_fuzz.py [COUNT] [SEED]`.

Every kind in every spelling of tests/test_redact_fuzz.py, in a line of a log; half of them also as a value of the
environment, alone and inside an answer's tree. Prints what leaks; the exit code is 1 where anything does.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from test_redact_fuzz import KINDS, SPELLINGS, SURROUNDINGS, leaks, letters

from oxrl_core.redact import Redactor


def main() -> int:
    """The exit code: 0 where no secret is left."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    draw = random.Random(seed)
    unknowing = Redactor({})
    left: Counter[str] = Counter()
    for number in range(count):
        kind, spell = draw.choice(list(KINDS)), draw.choice(SPELLINGS)
        place, prefix, alphabet, length = KINDS[kind]
        payload = letters(alphabet, length, draw)
        text = spell(draw.choice(SURROUNDINGS).replace("{}", place.replace("{}", prefix + payload)), draw)
        redactor = Redactor({"SERVICE_TOKEN": prefix + payload}) if number % 2 else unknowing
        shown = (redactor.text(text), redactor.shown(text), json.dumps(redactor.tree({"lines": [text], "note": text})))
        if any(leaks(payload, one) for one in shown):
            left[f"{kind}, {spell.__name__}"] += 1
            print(f"{kind}, {spell.__name__}: {text!r} -> {shown[0]!r}")
    print(f"{count} secrets, {left.total()} left, seed {seed} {dict(left) or ''}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
