"""Rules: their types, loading, cases, lint and generated documentation."""
