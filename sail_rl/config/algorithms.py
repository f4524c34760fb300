"""The defaults of `algorithm: NAME` in an RL stage, from the papers. A stage's own keys win over them."""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

Algorithm = Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo", "rloo", "reinforce_pp", "ppo"]

# An algorithm resets these values, then sets its own. All other values, such as `importance`, stay as they are.
SHARED: dict[str, Any] = {
    "advantages": "grpo",
    "critic": None,
    "sampling": {"dynamic_sampling": None},
    "loss": {
        "surrogate": "clip",
        "aggregation": "token_mean",
        "clip_high": 0.2,
        "kl": None,
        "overlong_filtering": False,
    },
}
REWARD_KL = {"coef": 1e-3, "place": "reward"}
ALGORITHMS: dict[str, dict[str, Any]] = {
    # arXiv 2402.03300, eq. 3. The paper adds `kl: {coef: 0.04}`; TRL's default omits it, too.
    "grpo": {"loss": {"aggregation": "sequence_mean"}},
    # arXiv 2503.14476, sections 3.1 to 3.4; its soft overlong punishment is the reward `rewards.shaping:soft_overlong`.
    "dapo": {
        "sampling": {"dynamic_sampling": {"max_rounds": 3}},
        "loss": {"clip_high": 0.28, "overlong_filtering": True},
    },
    # arXiv 2503.20783, section 3.2: neither the group's deviation nor the completion's length divides.
    "dr_grpo": {"advantages": "dr_grpo", "loss": {"aggregation": "fixed_length"}},
    # arXiv 2507.18071, eq. 5 and section 5.1: one ratio for a whole completion, and narrow limits.
    "gspo": {"loss": {"surrogate": "gspo", "aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4}},
    # arXiv 2506.13585, eq. 4 and 5: only the weight is clipped.
    "cispo": {"loss": {"surrogate": "cispo", "clip_high": 0.28}},
    # arXiv 2402.14740, eq. 2 and 6: leave-one-out baseline, KL to the reference in the reward.
    "rloo": {"advantages": "rloo", "loss": {"aggregation": "sequence_mean", "kl": REWARD_KL}},
    # arXiv 2501.03262, eq. 7: advantages normalised over the batch's tokens, each token's KL in its reward.
    "reinforce_pp": {"advantages": "reinforce_pp", "loss": {"kl": REWARD_KL}},
    # arXiv 1707.06347, eq. 7 and 9, with GAE (arXiv 1506.02438); λ and γ are 1, as in arXiv 2503.24290.
    "ppo": {"advantages": "gae", "critic": {"kind": "head", "gamma": 1.0, "lam": 1.0, "value_coef": 0.5}},
}
SURROGATE_DEFAULTS: dict[str, dict[str, Any]] = {"cispo": {"clip_low": 1.0}}  # arXiv 2506.13585: no lower limit
"""Defaults of `loss` that depend on its `surrogate`."""
assert ALGORITHMS.keys() == set(get_args(Algorithm))


def with_algorithm(stage: dict[str, Any]) -> dict[str, Any]:
    """Return a stage with the defaults of its `algorithm` under its own keys, or unchanged if there is none."""
    name = stage.get("algorithm")
    if not isinstance(name, str) or name not in ALGORITHMS:
        return stage
    return laid_over(laid_over(SHARED, ALGORITHMS[name]), stage)


def laid_over(base: Any, change: Any) -> Any:
    """A copy of `base` with the keys of `change`, section by section."""
    if isinstance(base, dict) and isinstance(change, dict):
        return copy.deepcopy(base) | {key: laid_over(base.get(key), value) for key, value in change.items()}
    return copy.deepcopy(change)
