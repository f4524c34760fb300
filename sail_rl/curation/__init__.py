"""Curates data: steps that change or drop rows and say why, and harvests of stored rollouts."""
