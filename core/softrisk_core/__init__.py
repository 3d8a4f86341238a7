"""What every other room of softrisk builds on: diagnostics, conformal ranks, the bundle format, the command line.

Importing this package costs nothing: its modules are imported by name where they are needed.
"""

__version__ = "0.1.0"
