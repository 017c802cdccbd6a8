"""Merging an adapter, and the proof that the merge is what it should be."""
