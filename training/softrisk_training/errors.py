"""The exception tree of training.

```
SoftriskError
└── TrainingError          training cannot start, go on or finish as asked
    ├── DataError          a data location is unknown, or what is there cannot be read as the data asked for
    └── CheckpointError    a file is not a checkpoint that this version can read
```
"""

from softrisk_core.errors import SoftriskError


class TrainingError(SoftriskError):
    """Root of the errors of training: what was asked for cannot be trained, or not like that."""


class DataError(TrainingError):
    """A data location is unknown, or what is there cannot be read as the data asked for."""


class CheckpointError(TrainingError):
    """A file is missing, damaged, foreign, or written by a newer version."""
