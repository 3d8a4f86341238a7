"""The exception tree of softrisk.

```
SoftriskError
├── BundleError            a bundle folder is damaged, foreign, or of a newer format
│   └── ModelNotFoundError no such model or version in a repository
├── CalibrationError       a calibration cannot keep the promise asked of it
├── ImageError             bytes that are not an image we accept
├── AudioError             bytes that are not a recording we accept
└── MissingExtraError      an optional part of the installation is absent
```

Every room has one root of its own below `SoftriskError`. The command line prints any of them as one line;
anything else is a fault of ours and keeps its traceback.
"""


class SoftriskError(Exception):
    """Root of all errors that a user can cause and mend; the message says what was wrong and what to do."""


class BundleError(SoftriskError):
    """A folder is not a bundle that this version can read, or no longer the one that was sealed."""


class ModelNotFoundError(BundleError):
    """A model repository holds no such model or version."""


class CalibrationError(SoftriskError):
    """A calibration is too small, or its score says nothing, for what is asked of it."""


class ImageError(SoftriskError):
    """Encoded bytes are not an image that can become a model input."""


class AudioError(SoftriskError):
    """Encoded bytes are not a recording that can become a model input."""


class MissingExtraError(SoftriskError):
    """A room was called whose optional dependencies are not installed."""
