"""Bytes in, events out: the scanner, line clean-up, and the parsers of what trainers print."""
