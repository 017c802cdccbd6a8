"""Judging answers: scorers (pure functions), generation in the training python, comparison and its report."""
