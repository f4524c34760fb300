"""Compares completions verified per second by our reward and TRL's accuracy_reward, on the same two cores.

    python benchmarks/rewards_speed.py [--completions 10000] [--trl-sample 1000] [--trl-pathological 12]

The first batch has 10,000 completions of 6,000 characters, a fifth of them duplicates, with answers as in mathematics
datasets (whole numbers, decimals, fractions, roots, expressions, tuples), about half of them right. The second batch
replaces 5 % of them by pathological answers. Our reward scores all completions, with a cold cache and with workers that
have started. TRL scores a sample of the ordinary and of the pathological ones; its total is extrapolated, since it has
no cache. On a shared machine, trust the CPU time (including the start of workers) of the ordinary batch, and the wall
time of the other, whose time limits are in wall time. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import time
from collections.abc import Callable
from typing import Any

from trl.rewards import accuracy_reward

from rewards.answer import Answer

CHARACTERS = 6000
DUPLICATES, PATHOLOGICAL = 0.2, 0.05
SENTENCE = "We look at the figure and note that the angle at $B_{%d}$ is $%d$ degrees, so that $x^2 + %d = y$ holds. "
Case = tuple[str, str]  # gold answer, completion


def ordinary(rng: random.Random) -> tuple[str, str]:
    """A gold answer, and a given answer that is right or wrong with equal probability."""
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 9)
    right = rng.random() < 0.5
    other = a if right else a + 1
    return rng.choice(
        [
            (str(a * b), str(other * b)),
            (str(a * b), f"{other * b}\\text{{ cm}}"),
            (f"{a}.{b}", f"{other}.{b}"),
            (f"\\frac{{{a}}}{{{b}}}", f"\\dfrac{{{other * c}}}{{{b * c}}}"),
            (f"{a}\\sqrt{{{c}}}", f"\\sqrt{{{other * other * c}}}"),
            (f"({a}, {b})", f"({other}, {b})"),
            (f"\\{{{a}, {b}\\}}", f"\\{{{b}, {other}\\}}"),
            (rng.choice("ABCD"), rng.choice("ABCD")),
            (f"{a}\\pi", f"\\pi \\cdot {other}"),
            (f"{a}x+{b}", f"{b}+{other}x"),
        ]
    )


def pathological(rng: random.Random) -> tuple[str, str]:
    """A gold answer, and an answer that sympy can't finish, such as a tower, binomial, factorial or long sum."""
    n = rng.randint(10**6, 10**9)
    wrong = rng.choice(
        [
            f"{n}^{{9^{{9^{{9}}}}}}",
            f"\\binom{{{n}}}{{{n // 2}}}",
            f"{n}!",
            f"(x+{n % 100})^{{{n}}}",
            f"x^{{{n}^{{9}}}}",
            f"\\sum_{{k=1}}^{{{n}}}\\frac{{1}}{{k^2}}",
            f"\\prod_{{k=1}}^{{{n}}} k",
            f"\\sum_{{k=1}}^{{{rng.randint(5000, 9999)}}}\\frac{{1}}{{k^k}}+x",  # our rules don't detect it
        ]
    )
    return str(rng.randint(1, 999)), wrong


def completion(answer: str, rng: random.Random) -> str:
    """A thought of about 6,000 characters, followed by the answer in a box."""
    thought = ""
    while len(thought) < CHARACTERS - 60:
        thought += SENTENCE % (rng.randint(1, 9), rng.randint(1, 179), rng.randint(1, 99))
    return f"<think>{thought[: CHARACTERS - 60]}</think>The answer is $\\boxed{{{answer}}}$."


def cases(count: int, make: Callable[[random.Random], tuple[str, str]], seed: int) -> list[Case]:
    """`count` cases, of which a fifth repeat others."""
    rng = random.Random(seed)
    different = [
        (gold, completion(answer, rng)) for gold, answer in (make(rng) for _ in range(round(count * (1 - DUPLICATES))))
    ]
    together = different + [rng.choice(different) for _ in range(count - len(different))]
    rng.shuffle(together)
    return together


def spent(call: Callable[..., Any], batch: list[Case]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one call for the batch in this process, as TRL's trainer calls rewards."""
    completions = [[{"role": "assistant", "content": text}] for _, text in batch]
    start, busy = time.perf_counter(), time.process_time()
    call(completions, [gold for gold, _ in batch])
    return time.perf_counter() - start, time.process_time() - busy


def children() -> float:
    """CPU seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--completions", type=int, default=10_000)
    parser.add_argument("--trl-sample", type=int, default=1000)
    parser.add_argument("--trl-pathological", type=int, default=12)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    count = options.completions
    bad = round(count * PATHOLOGICAL)
    easy, hard = cases(count, ordinary, seed=1), cases(bad, pathological, seed=2)
    trl = {}
    for name, batch, size in (("ordinary", easy, options.trl_sample), ("bad", hard, options.trl_pathological)):
        spent(trl_reward, easy[:5])
        trl[name] = [value / size for value in spent(trl_reward, random.Random(3).sample(batch, size))]
        print(f"TRL, {name}: {trl[name][0]:.4f} s each, CPU {trl[name][1]:.4f} s ({size} measured)")
    mixed = easy[: count - bad] + hard
    random.Random(4).shuffle(mixed)
    print("\n| batch | ours, s (CPU) | ours, /s | timed out | TRL, s (CPU) | TRL, /s | ratio | ratio of CPU |")
    print("|---" * 8 + "|")
    for name, batch, share in (("ordinary", easy, 0.0), ("5 % pathological", mixed, PATHOLOGICAL)):
        before = children()
        reward = Answer()
        reward.verification.ask([("symbolic", "x", "y"), ("symbolic", "2x", "y")])  # wait until both workers run
        wall, cpu = spent(reward, batch)
        reward.close()
        cpu += children() - before  # includes the start of the workers
        theirs = [count * ((1 - share) * trl["ordinary"][kind] + share * trl["bad"][kind]) for kind in (0, 1)]
        own = f"{wall:.1f} ({cpu:.1f}) | {count / wall:.0f} | {reward.failures['timeout']}"
        other = f"{theirs[0]:.0f} ({theirs[1]:.0f}) | {count / theirs[0]:.1f}"
        print(f"| {name} | {own} | {other} | {theirs[0] / wall:.1f}x | {theirs[1] / cpu:.1f}x |")


def trl_reward(completions: list[Any], golds: list[str]) -> list[float | None]:
    """TRL's reward, which needs gold answers between dollars."""
    return accuracy_reward(completions, [f"${gold}$" for gold in golds])


if __name__ == "__main__":
    main()
