"""The exception tree of evaluation.

```
SoftriskError
└── EvaluationError        bundle, checkpoint and data do not belong together, or leave nothing to evaluate
```
"""

from softrisk_core.errors import SoftriskError


class EvaluationError(SoftriskError):
    """An evaluation would be wrong or empty: the message says what does not fit and what to do."""
