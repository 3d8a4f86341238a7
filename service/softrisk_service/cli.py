"""`softrisk serve`: a model repository over HTTP."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from softrisk_service.callers import Callers
from softrisk_service.errors import ConfigurationError
from softrisk_service.listing import check_repository
from softrisk_service.logs import configure_logs
from softrisk_service.settings import Settings
from softrisk_service.sockets import listen
from softrisk_service.supervisor import Supervisor

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def _flag(field: str, *names: str) -> Any:
    info = Settings.model_fields[field]
    default = info.default
    if isinstance(default, bool):  # then the name is a pair, --on/--off
        default = names[0].split("/")[not default].removeprefix("--")
    shown = "" if default is None else f" [default: {default}]"
    return typer.Option(*names, help=f"{info.description}{shown}", show_default=False)


@app.command()
def serve(
    repository: Annotated[
        Path | None, typer.Argument(help="Folder of bundles. [default: models]", show_default=False)
    ] = None,
    repository_mode: Annotated[str | None, _flag("repository_mode")] = None,
    poll_seconds: Annotated[float | None, _flag("poll_seconds")] = None,
    host: Annotated[str | None, _flag("host")] = None,
    port: Annotated[int | None, _flag("port")] = None,
    keys: Annotated[Path | None, _flag("keys")] = None,
    alpha_review: Annotated[float | None, _flag("alpha_review")] = None,
    alpha_reject: Annotated[float | None, _flag("alpha_reject")] = None,
    max_batch_size: Annotated[int | None, _flag("max_batch_size")] = None,
    queue_size: Annotated[int | None, _flag("queue_size")] = None,
    max_instances: Annotated[int | None, _flag("max_instances")] = None,
    max_pixels: Annotated[int | None, _flag("max_pixels")] = None,
    max_samples: Annotated[int | None, _flag("max_samples")] = None,
    max_body_bytes: Annotated[int | None, _flag("max_body_bytes")] = None,
    max_json_bytes: Annotated[int | None, _flag("max_json_bytes")] = None,
    max_bodies_bytes: Annotated[int | None, _flag("max_bodies_bytes")] = None,
    deadline_seconds: Annotated[float | None, _flag("deadline_seconds")] = None,
    workers: Annotated[int | None, _flag("workers")] = None,
    device: Annotated[str | None, _flag("device")] = None,
    threads: Annotated[int | None, _flag("threads")] = None,
    drain_seconds: Annotated[float | None, _flag("drain_seconds")] = None,
    shutdown_seconds: Annotated[float | None, _flag("shutdown_seconds")] = None,
    log_level: Annotated[str | None, _flag("log_level")] = None,
    access_log: Annotated[bool | None, _flag("access_log", "--access-log/--no-access-log")] = None,
    console_logs: Annotated[bool | None, _flag("console_logs", "--console-logs/--json-logs")] = None,
) -> None:
    """Serve a model repository over HTTP.

    Every flag can also be set by an environment variable, SOFTRISK_PORT for --port; flags win.
    """
    flags = {name: value for name, value in locals().items() if value is not None}
    settings = _settings(flags)
    check_repository(settings)
    Callers.of(settings)  # unreadable keys are told now, not by every worker
    sockets = listen(settings.host, settings.port)
    configure_logs(settings)
    if settings.workers > 1:
        Supervisor(settings, sockets).run()
    else:
        # Not before it is needed: a supervisor needs neither a runtime nor an app.
        from softrisk_service.worker import serve as serve_alone

        serve_alone(settings, sockets)


def _settings(flags: dict[str, Any]) -> Settings:
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigurationError(_explained(error.errors()[0], flags)) from error


def _explained(fault: ErrorDetails, flags: dict[str, Any]) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:  # a rule about several settings, which names them
        return message
    field, value = str(fault["loc"][0]), fault["input"]
    if field in flags:
        return f"--{field.replace('_', '-')} {value}: {message}"
    variable = f"SOFTRISK_{field.upper()}"
    hint = ""
    if str(value).startswith("tcp://"):
        hint = (
            f". Kubernetes sets {variable} in each pod beside a service named softrisk: set enableServiceLinks: false "
            f"in the pod, or give --{field.replace('_', '-')}, which wins"
        )
    return f"the environment variable {variable}={value}: {message}{hint}"
