"""Activation maximisation: images that a classifier answers most strongly to, and how good such images are."""
