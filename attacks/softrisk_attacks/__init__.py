"""Attacks on a torch module."""
