"""The calls of /api/v1, one module for each noun. A handler reads the call, asks the service, and says what came of it; nothing is decided here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from ..models import ErrorBody
from ..service import Service


async def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


Serves = Annotated[Service, Depends(service_of)]


def router(tag: str) -> APIRouter:
    return APIRouter(tags=[tag], responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}})
