"""Triton's model repository extension of the Open Inference Protocol.

The routes are there in every mode and answer 403 unless the operator chose `explicit`; where callers
need keys, only those with full disclosure may use them.
"""

import asyncio
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from softrisk_service import descriptions
from softrisk_service.callers import Callers
from softrisk_service.catalogue import VersionState
from softrisk_service.codecs.body import BodyBudget, parse_object, read_body
from softrisk_service.codecs.tensors import shown
from softrisk_service.engine import Engine, Wanted
from softrisk_service.errors import ForbiddenError, InvalidInputError, SlowBodyError
from softrisk_service.routes.callers import disclosure_of

_LONGEST_BODY: Final = 64 * 1024
_SECONDS: Final = 10.0
"""Longest time for such a body to arrive."""


class Control(Protocol):
    """Who loads and unloads models: the engine, or whoever tells the engines of all processes."""

    async def load_model(self, name: str, version: Wanted | None = None) -> None:
        """See `Engine.load_model`."""

    async def unload_model(self, name: str) -> None:
        """See `Engine.unload_model`."""


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class IndexRequest(_Parameters):
    """What to list."""

    ready: bool = False
    """Only versions that answer requests."""


class LoadParameters(_Parameters):
    """Parameters of a load request."""

    version: Annotated[int, Field(ge=1)] | Literal["latest"] | None = None
    """Becomes the default for good, older or newer; `latest`: the highest one, whichever that is."""


class UnloadParameters(_Parameters):
    """Parameters of an unload request."""

    unload_dependents: bool = False
    """Without effect: no model depends on another."""


class RepositoryEntry(_Parameters):
    """State of a model version."""

    name: str
    version: str
    state: VersionState
    reason: str
    """Empty where there is nothing to say."""


P = TypeVar("P", bound=_Parameters)


def repository_routes(engine: Engine, control: Control, callers: Callers) -> APIRouter:
    """The routes below `/v2/repository`."""

    async def allowed(request: Request) -> None:
        if not engine.takes_orders:
            raise ForbiddenError(
                "this server does not load and unload models on request: start it with --repository-mode explicit"
            )
        if callers.have_keys and disclosure_of(request) != "full":
            raise ForbiddenError("only keys with full disclosure may list, load and unload what the repository holds")

    router = APIRouter(
        prefix="/v2/repository",
        tags=["Model repository"],
        default_response_class=JSONResponse,
        dependencies=[Depends(allowed)],
    )

    @router.post(
        "/index",
        operation_id="v2_repository_index",
        summary="List all model versions with their states",
        responses=descriptions.problems() | {200: {"model": list[RepositoryEntry]}},
        openapi_extra=_described(IndexRequest.model_json_schema()),
    )
    async def index(request: Request) -> Response:
        wanted = _checked(IndexRequest, await _read(request), "")
        return JSONResponse(
            [
                RepositoryEntry(
                    name=status.name, version=status.version, state=status.state, reason=status.reason or ""
                ).model_dump()
                for status in await engine.index()
                if status.ready or not wanted.ready
            ]
        )

    @router.post(
        "/models/{model}/load",
        operation_id="v2_repository_load",
        summary="Load what is new in a model's folder; choose its default version",
        responses=descriptions.problems(404),
        openapi_extra=_described(_with_parameters(LoadParameters)),
    )
    async def load(request: Request, model: str) -> Response:
        parameters = await _parameters(LoadParameters, request)
        await control.load_model(model, parameters.version)
        return JSONResponse({})

    @router.post(
        "/models/{model}/unload",
        operation_id="v2_repository_unload",
        summary="Answer no more requests for a model",
        responses=descriptions.problems(404),
        openapi_extra=_described(_with_parameters(UnloadParameters)),
    )
    async def unload(request: Request, model: str) -> Response:
        await _parameters(UnloadParameters, request)
        await control.unload_model(model)
        return JSONResponse({})

    return router


async def _parameters(model: type[P], request: Request) -> P:
    return _checked(model, (await _read(request)).get("parameters", {}), "parameters")


async def _read(request: Request) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_SECONDS):
            body = await read_body(request, _LONGEST_BODY, BodyBudget(_LONGEST_BODY))
    except TimeoutError as error:
        raise SlowBodyError(f"the body was not there within {_SECONDS:g} s of the head") from error
    return parse_object(body) if body else {}


def _checked(model: type[P], values: object, where: str) -> P:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(filter(None, (where, *map(str, first["loc"])))) or "the body"
        known = ", ".join(model.model_fields)
        raise InvalidInputError(f"{place}: {first['msg']}, got {shown(first['input'])}; known: {known}") from error


def _with_parameters(model: type[_Parameters]) -> dict[str, Any]:
    return {"type": "object", "properties": {"parameters": model.model_json_schema()}}


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}
