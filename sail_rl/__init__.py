"""sail_rl: turn a SAIL-VL2 vision-language model into one that thinks (SFT, then RL, under one trainer)."""

__version__ = "0.1.0"
