"""Losses, data, models and the training loop that make the softmax carry information about the input."""
