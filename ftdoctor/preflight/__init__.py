"""What can be known before a run: another set of sources for the one session. Everything here ends in facts."""
