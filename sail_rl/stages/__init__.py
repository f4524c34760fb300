"""The stages of a run: training, datasets out of rollouts, soup, export."""
