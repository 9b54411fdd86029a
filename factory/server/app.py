"""The application: the service, the calls, the page, and the gate in front of them all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi

from ...contract.version import VERSION
from ..segment.desk import Desk
from . import answers, models, page
from .api import batches, frames, health, images, jobs, reconstruct, segment
from .gate import Access, Gate
from .guesses import Guesses
from .service import Service
from .views import V1

_ABOUT = (
    "One picture and its masks in, textured meshes and Gaussian splats out. Where the server has a token, every call carries `Authorization: Bearer TOKEN`. "
    "docs/api.md has examples."
)


EVERYBODY_HERE = Access()  # who is on this machine


def make_app(service: Service, access: Access = EVERYBODY_HERE) -> FastAPI:
    """The service starts and stops with the application."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.hub.close()
            await run_in_threadpool(service.stop)

    app = FastAPI(
        title="SAM 3D job server",
        version=VERSION,
        description=_ABOUT,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{V1}/openapi.json",
        separate_input_output_schemas=False,
    )
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    app.state.service, app.state.access, app.state.desk, app.state.guesses = service, access, Desk(), Guesses()
    for module in (health, images, segment, jobs, frames, batches, reconstruct):
        app.include_router(module.routes, prefix=V1)
    app.add_api_route("/healthz", health.healthz, include_in_schema=False)
    app.add_api_route("/readyz", health.readyz, include_in_schema=False)
    page.install(app)
    answers.install(app)
    app.add_middleware(Gate, access=access, limits=service.limits, guesses=app.state.guesses)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """FastAPI's own description, and the body that `POST /reconstruct` reads by itself."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = found["components"]["schemas"]
        own = models.InstantIn.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {name: value for name, value in own.pop("$defs", {}).items() if name not in schemas}
        schemas["InstantIn"] = own
        app.openapi_schema = found
    return app.openapi_schema
