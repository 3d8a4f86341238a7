"""Attacks on a bundle, what its scores and flags are worth under them, and the report that says so."""
