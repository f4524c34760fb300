"""Records that a run writes: metrics, traces, rollouts, progress and W&B."""
