"""Ablations: one run for each combination of settings, and the table of what they teach."""
