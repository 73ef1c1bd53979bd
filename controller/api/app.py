"""The FastAPI application: routes, errors and limits put together."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from controller.api import device_routes, job_routes, rollout_routes, system_routes
from controller.api.problems import RequestLimit, handle_errors
from controller.api.services import Services
from runtime import __version__

__all__ = ["create_app"]


def create_app(services: Services) -> FastAPI:
    """Return the API of a running controller; its OpenAPI document is at /api/v1/openapi.json."""
    app = FastAPI(
        title="Vedette controller",
        version=__version__,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # FastAPI's page loads its scripts from a CDN
        redoc_url=None,
    )
    app.state.services = services
    app.add_middleware(RequestLimit)
    handle_errors(app)
    api = APIRouter(prefix="/api/v1")
    for module in (system_routes, device_routes, rollout_routes, job_routes):
        api.include_router(module.router)
    app.include_router(api)
    return app
