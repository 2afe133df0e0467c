"""Objective, data views, DeepSpeed trainer, checkpoints, probes."""
