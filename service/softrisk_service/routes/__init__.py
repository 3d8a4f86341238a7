"""HTTP routes: thin, one module for each protocol and one for operations."""
