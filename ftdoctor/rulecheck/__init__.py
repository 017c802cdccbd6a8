"""Rules tested, linted and documented through the real engine."""
