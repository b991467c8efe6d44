"""How long the reward `math` takes for a verdict, by what decides it: text and arithmetic here, or math-verify.

    python benchmarks/math_reward.py [--rounds 400] [--fast-limit 0.2] [--hard-limit 10]

Limits are medians in milliseconds; above one the exit code is 1. Every answer is a new one; of the hard pairs eight
answers in turn share a reference, as the completions of a prompt do. math-verify is started before the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from oxrl_core.rewards.base import get_reward
from oxrl_core.rewards.math_client import ask_math_verify
from oxrl_core.types import Prompt, Rollout

FAST: list[Callable[[int], tuple[str, str]]] = [  # number of the round -> answer, reference
    lambda n: (f"{n}", f"{n}"),
    lambda n: (f"{n:,}.0", f"{n}"),
    lambda n: (rf"\frac{{{n}}}{{4}}", f"{n / 4}"),
    lambda n: (rf"{n}\%", f"{n / 100}"),
    lambda n: (rf"{n}\text{{ cm}}", f"{n}"),
    lambda n: (f"x = {n}", f"{n + 1}"),
    lambda n: (f"({n}, {n + 1})", f"({n},{n + 1})"),
    lambda n: (rf"\{{{n}, {n + 1}\}}", rf"\{{{n + 1}, {n}\}}"),
]
HARD: list[Callable[[int], tuple[str, str]]] = [
    lambda n: (rf"{n}\sqrt{{2}}", rf"\sqrt{{{2 * (n - n % 8) ** 2}}}"),
    lambda n: (rf"\pi/{n}", rf"\frac{{\pi}}{{{n - n % 8}}}"),
    lambda n: (f"x+{n}", f"{n - n % 8}+x"),
    lambda n: (rf"{n}x^2+{n}", rf"{n - n % 8}(x^2+1)"),
    lambda n: (rf"\frac{{{n}}}{{\sqrt{{3}}}}", rf"\frac{{{n - n % 8}\sqrt{{3}}}}{{3}}"),
]


def milliseconds(make: Callable[[int], tuple[str, str]], rounds: int) -> list[float]:
    """What each verdict took."""
    reward, taken = get_reward("math"), list[float]()
    for number in range(1001, 1001 + rounds):
        answer, reference = make(number)
        text = "Let us see, step by step. " * 40 + rf"So it is \boxed{{{answer}}}."
        rollout = Rollout(Prompt("bench/0", [1], "How much?", reference), 0, [1], [0.0], "stop", 0, 0, text=text)
        started = time.perf_counter()
        score = reward(rollout)
        taken.append(1000 * (time.perf_counter() - started))
        assert score.status == "ok", (answer, reference, score)
    return taken


def main() -> int:
    """0 where both medians keep their limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--fast-limit", type=float, default=0.2)
    parser.add_argument("--hard-limit", type=float, default=10.0)
    arguments = parser.parse_args()
    ask_math_verify("a+1", "1+a")
    good = True
    for name, forms, limit, rounds in (
        ("fast", FAST, arguments.fast_limit, arguments.rounds),
        ("hard", HARD, arguments.hard_limit, max(20, arguments.rounds // 8)),
    ):
        taken = sorted(value for make in forms for value in milliseconds(make, rounds))
        median, late = statistics.median(taken), taken[int(0.99 * len(taken))]
        good &= median <= limit
        print(f"{name}: {len(taken)} verdicts, p50 {median:.3f} ms, p99 {late:.3f} ms (limit of p50: {limit:g} ms)")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
