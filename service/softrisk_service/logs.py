"""Logs: on standard output, one JSON object a line, or lines for people where they look at a terminal."""

import logging
import sys
from contextlib import suppress
from typing import IO, Any

import orjson
import structlog

from softrisk_service.settings import Settings


def _json(event: dict[str, Any], **_: Any) -> bytes:
    return orjson.dumps(event, default=str)


class _Output:
    """Standard output, for as long as somebody reads it and the disk has room: no request fails for its log line."""

    def __init__(self, stream: IO[Any]) -> None:
        self._stream = stream

    def write(self, line: bytes | str) -> None:
        with suppress(OSError):
            self._stream.write(line)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class _Forwarder(logging.Handler):
    """Hands what libraries log by `logging`, uvicorn above all, to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )


def configure_logs(settings: Settings) -> None:
    """Set up the logs of the process."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    factory: Any
    output: Any = _Output
    terminal = sys.stdout.isatty()
    if terminal if settings.console_logs is None else settings.console_logs:
        processors.append(
            structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)
        )
        factory = structlog.PrintLoggerFactory(output(sys.stdout))
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
        factory = structlog.BytesLoggerFactory(output(sys.stdout.buffer))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # Pillow warns about odd files; standard error is not where log readers look.
    logging.captureWarnings(True)
    logging.basicConfig(handlers=[_Forwarder()], level=level, force=True)
