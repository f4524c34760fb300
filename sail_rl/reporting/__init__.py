"""What a run shows: metrics (file and Weights & Biases), traces, curves, a self-contained report."""
