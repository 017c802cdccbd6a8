"""Fold events into the run: series, step clock, ranks, configs, exits, coverage."""
