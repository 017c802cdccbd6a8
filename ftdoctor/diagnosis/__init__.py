"""Rules on the run: engine, outcomes, fixes and attribution."""
