"""What is written while a run goes on: metrics, traces, rollouts, W&B."""
