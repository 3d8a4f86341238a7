"""The ASGI application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry

from softrisk_core import __version__
from softrisk_service import problems
from softrisk_service.access import RequestRecorder
from softrisk_service.engine import Engine
from softrisk_service.openapi import describe
from softrisk_service.routes.inference import Inference
from softrisk_service.routes.operations import operation_routes
from softrisk_service.routes.v1 import v1_routes
from softrisk_service.routes.v2 import v2_routes
from softrisk_service.settings import Settings


def create_app(settings: Settings, *, registry: CollectorRegistry, engine: Engine) -> FastAPI:
    """Put the application together; nothing is loaded before its lifespan starts.

    Args:
        settings: Of the server.
        registry: What `/metrics` shows; the one that the engine's metrics are in.
        engine: The models.
    """
    inference = Inference(settings, engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Beside the server, so that /livez and /readyz answer while models are loaded and warmed up.
        loading = asyncio.create_task(engine.load())
        try:
            yield
        finally:
            await loading
            await engine.close()
            inference.close()

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
    app.include_router(v1_routes(engine, inference))
    app.include_router(v2_routes(engine, inference))
    app.include_router(operation_routes(engine, registry))
    app.add_middleware(RequestRecorder, metrics=engine.metrics, access_log=settings.access_log)
    problems.install(app)
    describe(app)
    return app
