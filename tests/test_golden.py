"""Twenty seeded steps of every RL algorithm give the losses and gradient norms that they always gave."""

from __future__ import annotations

import json
import math

import golden
import pytest

STORED = json.loads(golden.FILE.read_text())


@pytest.mark.parametrize("name", golden.ALGORITHMS)
def test_twenty_seeded_steps_give_the_numbers_they_always_gave(name: str) -> None:
    """Guards refactors. If mathematics changes on purpose, regenerate the numbers with `python tests/golden.py`.

    Rounding (other processors, other numbers of threads) changes them by up to 1e-5 of themselves. The seed was chosen
    so that no ratio comes closer to a clip limit than 1e-4.
    """
    assert golden.run(name) == {
        "loss": pytest.approx(STORED[name]["loss"], abs=1e-4),
        "grad_norm": pytest.approx(STORED[name]["grad_norm"], rel=1e-3),
    }


def test_the_stored_numbers_are_those_of_all_algorithms() -> None:
    assert list(STORED) == list(golden.ALGORITHMS)
    for name, numbers in STORED.items():
        assert {metric: len(values) for metric, values in numbers.items()} == {"loss": 20, "grad_norm": 20}, name
        assert all(math.isfinite(value) for values in numbers.values() for value in values), name
        assert len(set(numbers["grad_norm"])) == 20, name
