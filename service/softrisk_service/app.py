"""The ASGI application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry

from softrisk_core import __version__
from softrisk_service import problems
from softrisk_service.access import Recorder, RecordRequests
from softrisk_service.callers import Callers
from softrisk_service.engine import Engine
from softrisk_service.exchange import Shortcut
from softrisk_service.exposition import render
from softrisk_service.inference import Inference
from softrisk_service.openapi import describe
from softrisk_service.routes.callers import BEARER, identify_by
from softrisk_service.routes.inference import InferenceRoute
from softrisk_service.routes.operations import operation_routes
from softrisk_service.routes.repository import repository_routes
from softrisk_service.routes.v1 import v1_routes
from softrisk_service.routes.v2 import v2_health_routes, v2_routes
from softrisk_service.settings import Settings
from softrisk_service.siblings import Siblings


def create_app(
    settings: Settings, *, registry: CollectorRegistry, engine: Engine, siblings: Siblings | None = None
) -> FastAPI:
    """Put the application together; nothing is loaded before its lifespan starts.

    Args:
        settings: Of the server.
        registry: What `/metrics` shows; the one that the engine's metrics are in.
        engine: The models.
        siblings: The other processes of the service, where there are any: then `/metrics` shows all of them, and all
            load and unload models on request.

    Raises:
        ConfigurationError: If the keys that the settings name cannot be read.
    """

    async def scrape(accept: str) -> tuple[bytes, str]:
        return render(registry, accept)

    callers = Callers.of(settings)
    inference = Inference(settings, engine)
    recorder = Recorder(engine.metrics, settings.access_log)
    route = InferenceRoute(inference)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        # Beside the server, so that /livez and /readyz answer while models are loaded and warmed up.
        loading = asyncio.create_task(engine.load())
        try:
            yield {"shortcut": Shortcut(inference, recorder, callers)}  # to the connections, see ShortcutProtocol
        finally:
            await loading
            await engine.close()
            route.close()

    # /docs with scripts and styles of our own, not from a server on the internet.
    app = FastAPIOffline(
        title="softrisk",
        version=__version__,
        lifespan=lifespan,
        static_url="/docs/assets",
        redoc_url=None,
        # A redirect would be built from the Host header, which is the client's.
        redirect_slashes=False,
    )
    app.include_router(v2_health_routes(engine))
    known = [Depends(BEARER), Depends(identify_by(callers))]
    app.include_router(v1_routes(engine, route), dependencies=known)
    app.include_router(v2_routes(engine, route), dependencies=known)
    app.include_router(repository_routes(engine, siblings or engine, callers), dependencies=known)
    app.include_router(operation_routes(engine, siblings.scrape if siblings else scrape))
    app.add_middleware(RecordRequests, recorder=recorder)
    problems.install(app)
    describe(app)
    return app
