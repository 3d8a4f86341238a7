"""Experiments that decide what the training losses are worth, each a command with stored results."""
