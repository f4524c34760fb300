"""Compares completions verified per second by our reward and TRL's accuracy_reward, on the same two cores.

    python benchmarks/rewards_speed.py [--completions 10000] [--trl-sample 1000] [--trl-pathological 12]
                                        [--rounds 1]

The first batch has 10,000 completions of 6,000 characters, a fifth of them duplicates, with answers as in mathematics
datasets (whole numbers, decimals, fractions, roots, expressions, tuples), about half of them right. The second batch
replaces 5 % of them by pathological answers, the third 5 % by the repeated tokens of hostile.py. Our reward scores all
completions, with a cold cache and with workers that have started. TRL scores a sample of the ordinary and of the
pathological ones; its total is extrapolated, since it has no cache. On a shared machine, trust the CPU time (of this
process, and of the workers with their start) where nothing times out, and the wall time of the second batch, whose time
limits are in wall time. Prints a Markdown table; `time` is the wall time relative to the ordinary batch of the round.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from hostile import Case, attack
from trl.rewards import accuracy_reward

from rewards.answer import Answer

CHARACTERS = 6000
DUPLICATES, PATHOLOGICAL = 0.2, 0.05
SENTENCE = "We look at the figure and note that the angle at $B_{%d}$ is $%d$ degrees, so that $x^2 + %d = y$ holds. "


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


def measure(batch: list[Case], number: int) -> tuple[float, float, float, Counter[str]]:
    """Wall-clock seconds, CPU seconds of this process and of its workers, and failures, with a cold cache."""
    before = children()
    reward = Answer(memory_gib=1 + number / 1024)  # a pool of its own
    reward([r"\boxed{x}", r"\boxed{y}"], [r"\int x dx", r"\int y dx"])  # now both workers run
    wall, cpu = spent(reward, batch)
    reward.close()
    return wall, cpu, children() - before, reward.failures


def trl_seconds(easy: list[Case], hard: list[Case], samples: tuple[int, int]) -> list[list[float]]:
    """Wall-clock and CPU seconds that TRL needs for an ordinary and for a pathological completion."""
    found = []
    for batch, size in zip((easy, hard), samples, strict=True):
        spent(trl_reward, easy[:5])
        found.append([value / size for value in spent(trl_reward, random.Random(3).sample(batch, size))])
        print(f"TRL: {found[-1][0]:.4f} s each, CPU {found[-1][1]:.4f} s ({size} measured)")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--completions", type=int, default=10_000)
    parser.add_argument("--trl-sample", type=int, default=1000, help="0 leaves TRL out")
    parser.add_argument("--trl-pathological", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1, help="how often each batch is scored, in turn")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    count = options.completions
    bad = round(count * PATHOLOGICAL)
    easy, hard = cases(count, ordinary, seed=1), cases(bad, pathological, seed=2)
    samples = options.trl_sample, options.trl_pathological
    each = trl_seconds(easy, hard, samples) if options.trl_sample else None
    batches = {
        "ordinary": easy,
        "5 % pathological": easy[: count - bad] + hard,
        "5 % repeated tokens": easy[: count - bad] + attack(bad, seed=5),
    }
    for batch in batches.values():
        random.Random(4).shuffle(batch)
    print("\n| batch | wall, s | time | CPU of the trainer, s | CPU of workers, s | /s | failures | TRL, s (CPU) |")
    print("|---" * 8 + "|")
    for number in range(options.rounds):
        clean = 0.0
        for name, batch in batches.items():
            wall, cpu, workers, failures = measure(batch, number * len(batches) + list(batches).index(name))
            clean = clean or wall
            failed = ", ".join(f"{times} {status}" for status, times in failures.items()) or "none"
            theirs = "-"
            if each and name != "5 % repeated tokens":
                share = PATHOLOGICAL * (name != "ordinary")
                wall_and_cpu = (count * ((1 - share) * each[0][kind] + share * each[1][kind]) for kind in (0, 1))
                theirs = "{:.0f} ({:.0f})".format(*wall_and_cpu)
            speed = f"{wall:.2f} | {wall / clean:.2f}x | {cpu:.2f} | {workers:.2f} | {count / wall:.0f}"
            print(f"| {name} | {speed} | {failed} | {theirs} |", flush=True)


def trl_reward(completions: list[Any], golds: list[str]) -> list[float | None]:
    """TRL's reward, which needs gold answers between dollars."""
    return accuracy_reward(completions, [f"${gold}$" for gold in golds])


if __name__ == "__main__":
    main()
