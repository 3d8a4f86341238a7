"""The exception tree of export.

```
SoftriskError
└── ExportError            a source cannot become a bundle
    ├── ForeignModelError  an ONNX file is not a classifier that softrisk can take over
    ├── ParityError        the exported graph does not compute what its source computes
    └── TwinError          a classifier cannot be made one of reduced precision
```

A calibration that cannot keep its promise is core's `CalibrationError`.
"""

from softrisk_core.errors import SoftriskError


class ExportError(SoftriskError):
    """A source cannot become a bundle."""


class ForeignModelError(ExportError):
    """An ONNX file is not a classifier that softrisk can take over, or not without being told more about it."""


class ParityError(ExportError):
    """The exported graph does not compute what its source, or the NumPy reference, computes."""


class TwinError(ExportError):
    """A classifier cannot be made one of reduced precision."""
