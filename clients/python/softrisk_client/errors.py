"""The exception tree of the client.

```
SoftriskClientError
├── InvalidArgumentError        what was given cannot become a request, or a gate
├── UndecidedError              an answer discloses too little to decide on it
├── TransportError              no answer came back: refused, reset, no such host
│   └── RequestTimeoutError     no answer came back in time
└── ResponseError               an answer came back, and it is not the one hoped for
    ├── UnexpectedResponseError it is not softrisk's: a proxy's HTML page, another service
    └── ProblemError            a problem document (RFC 9457) of the service
        ├── InvalidInputError       400, 413, 415, 422: the input; do not send it again
        ├── UnauthorizedError       401, 403: the key
        ├── NotFoundError           404: no such model or version
        ├── OverloadedError         429: queue full or rate limit; see `retry_after`
        ├── ServerError             500: a fault of the service; `problem.request_id` finds it in its log
        ├── NotReadyError           503: starting, or draining
        └── DeadlineExceededError   408, 504: took too long to send, or waited too long in the queue
```

What a second attempt can mend (`TransportError`, 408, 429, 502, 503, 504) has been retried before it is raised.
"""

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """A problem document (RFC 9457); `error` is the same message for clients of the Open Inference Protocol."""

    model_config = ConfigDict(frozen=True, extra="allow")

    status: int
    title: str
    detail: str = ""
    error: str = ""
    request_id: str | None = None


class SoftriskClientError(Exception):
    """Root of all errors of this package."""


class InvalidArgumentError(SoftriskClientError, ValueError):
    """The arguments cannot become a request, or a gate; nothing was sent."""


class UndecidedError(SoftriskClientError):
    """The service disclosed neither a decision nor the p-value that was asked for, so nothing may be accepted."""


class TransportError(SoftriskClientError):
    """No answer came back."""


class RequestTimeoutError(TransportError):
    """No answer came back within the client's timeout."""


class ResponseError(SoftriskClientError):
    """An answer came back that is not a success of the service.

    Attributes:
        status: The HTTP status.
        retry_after: Seconds that the service asks the caller to wait, where it says so.
    """

    status: int
    retry_after: float | None


class UnexpectedResponseError(ResponseError):
    """Something answered, but not in softrisk's language; is the URL the service's?"""

    def __init__(self, status: int, reason: str, retry_after: float | None = None) -> None:
        # Exactly the constructor's arguments, so that the error survives pickling between worker processes.
        super().__init__(status, reason, retry_after)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"not an answer of softrisk (status {self.status}): {self.reason}"


class ProblemError(ResponseError):
    """The service refused, and said why.

    Attributes:
        problem: The problem document.
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(problem, retry_after)
        self.problem = problem
        self.status = problem.status
        self.retry_after = retry_after

    def __str__(self) -> str:
        where = f" (request {self.problem.request_id})" if self.problem.request_id else ""
        return f"{self.status} {self.problem.title}: {self.problem.detail or self.problem.error}{where}"


class InvalidInputError(ProblemError):
    """The input is malformed, too large, of the wrong media type, shape or range (400, 413, 415, 422)."""


class UnauthorizedError(ProblemError):
    """No key, a wrong one, or one that may not do this (401, 403)."""


class NotFoundError(ProblemError):
    """No such model or version (404)."""


class OverloadedError(ProblemError):
    """The queue is full, or a rate limit is reached (429)."""


class ServerError(ProblemError):
    """A fault of the service (500)."""


class NotReadyError(ProblemError):
    """The service or the model is starting or draining (503)."""


class DeadlineExceededError(ProblemError):
    """The request took longer than the service allows: to arrive (408), or to be answered (504)."""
