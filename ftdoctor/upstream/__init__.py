"""What we know of software we do not control, each tool in one place."""
