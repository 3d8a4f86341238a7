"""Classifiers of several inputs whose radii are bounded: pairs, models, training, certificates."""
