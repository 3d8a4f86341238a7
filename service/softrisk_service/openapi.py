"""The OpenAPI document; `python -m softrisk_service.openapi` prints it, for `clients/openapi.json`."""

import sys
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from softrisk_service import schemas

_DESCRIPTION: Final = """\
Classifiers that say, with every prediction, how strange the input is compared with clean traffic.

The false-alarm rate of a flag is guaranteed on clean traffic like the calibration data. Detection rates are
measured, not guaranteed, and stand in each bundle's report.
"""


def describe(app: FastAPI) -> None:
    """Let an app describe the bodies that its routes read by hand."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(
                title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes
            )
            _, definitions = models_json_schema(
                [(model, "validation") for model in schemas.REFERENCED], ref_template="#/components/schemas/{model}"
            )
            app.openapi_schema["components"]["schemas"] |= definitions["$defs"]
            for path in app.openapi_schema["paths"].values():
                for operation in path.values():
                    if "security" in operation:
                        operation["security"].append({})  # without keys configured, there is none to send
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # FastAPI's documented way to extend the document


def render(app: FastAPI) -> bytes:
    """The document as it is committed."""
    return orjson.dumps(app.openapi(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _main() -> None:
    from prometheus_client import CollectorRegistry

    from softrisk_service.app import create_app
    from softrisk_service.engine import Engine
    from softrisk_service.metrics import Metrics
    from softrisk_service.settings import Settings

    registry = CollectorRegistry()
    settings = Settings()
    app = create_app(settings, registry=registry, engine=Engine(settings, Metrics(registry)))
    sys.stdout.buffer.write(render(app))


if __name__ == "__main__":
    _main()
