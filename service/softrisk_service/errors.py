"""The service's exception tree.

```
ServiceError
├── ConfigurationError   settings that cannot work
│   └── NothingToServeError  a repository of which no version can be served
├── NotServableError     a bundle that must not be served, and why
├── WorkerError          a process of the service that does not start
├── ChannelError         another process of the service that failed
│   └── ChannelClosedError  … or is gone
└── RequestError         an answer other than 200; the class says which
    ├── MalformedError      400
    ├── UnauthorizedError   401
    ├── ForbiddenError      403
    ├── UnknownModelError   404
    ├── SlowBodyError       408
    ├── RepositoryError     409
    ├── TooLargeError       413
    ├── MediaTypeError      415
    ├── InvalidInputError   422
    ├── QueueFullError      429
    ├── BodiesFullError     429
    ├── NotReadyError       503
    └── DeadlineError       504
```
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from softrisk_core.errors import SoftriskError

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class ServiceError(SoftriskError):
    """Root of the service's errors."""


class ConfigurationError(ServiceError):
    """The settings, or the model repository that they name, cannot work."""


class NothingToServeError(ConfigurationError):
    """No version of the repository can be served.

    Args:
        repository: The folder.
        faults: Why, a line for each version.
    """

    def __init__(self, repository: Path, faults: list[str]) -> None:
        super().__init__("\n  ".join([f"nothing in {repository} can be served:", *faults]))


class NotServableError(ServiceError):
    """A bundle is intact but must not be served here."""


class WorkerError(ServiceError):
    """The processes that should serve do not start."""


class ChannelError(ServiceError):
    """Another process of the service failed at what it was asked to do."""


class ChannelClosedError(ChannelError):
    """Another process of the service is gone."""


class RequestError(ServiceError):
    """A request that is answered with an error; the message is the problem's detail."""

    status: ClassVar[int] = 400
    headers: ClassVar[Mapping[str, str]] = _NO_HEADERS


class MalformedError(RequestError):
    """The body is not what its media type says."""


class UnauthorizedError(RequestError):
    """No key, or a wrong one, where the operator asks for keys."""

    status = 401
    headers = MappingProxyType({"www-authenticate": 'Bearer realm="softrisk"'})


class ForbiddenError(RequestError):
    """The operator has not allowed it, or not to this caller."""

    status = 403


class UnknownModelError(RequestError):
    """No such model or version."""

    status = 404


class SlowBodyError(RequestError):
    """The body was not there in time: the caller's doing, not a fault of the service."""

    status = 408
    # What is left of the body, here and below, will not be read, so the connection cannot be used again.
    headers = MappingProxyType({"connection": "close"})


class RepositoryError(RequestError):
    """What lies in the model repository, or its permissions, do not allow the change that was asked for."""

    status = 409


class TooLargeError(RequestError):
    """The body, or the number of instances or pixels in it, is over the limit."""

    status = 413
    headers = MappingProxyType({"connection": "close"})


class MediaTypeError(RequestError):
    """The body's media type or encoding is not accepted, or not by this model."""

    status = 415


class InvalidInputError(RequestError):
    """Well-formed, but not an input of this model: shape, type or values."""

    status = 422


class QueueFullError(RequestError):
    """More instances wait than the server is willing to keep."""

    status = 429
    headers = MappingProxyType({"retry-after": "1"})


class BodiesFullError(RequestError):
    """The requests being received and decoded hold more bytes than the server is willing to keep."""

    status = 429
    headers = MappingProxyType({"retry-after": "1", "connection": "close"})


class NotReadyError(RequestError):
    """The model is loading, broken, or the server is shutting down."""

    status = 503
    headers = MappingProxyType({"retry-after": "1"})


class DeadlineError(RequestError):
    """The answer was not there in time."""

    status = 504


class ClientGoneError(Exception):
    """The caller closed the connection, or has been told 504: there is nobody left to answer."""
