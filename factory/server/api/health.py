"""Is it there, is it ready, what can it do; and the page's session."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from ....contract.errors import DeniedError
from ....contract.request import FORMATS
from ....contract.version import PROTOCOL, VERSION
from .. import gate, models, pictures, views
from ..guesses import Guesses
from ..service import Service
from . import Serves, router, segment

routes = router("server")


@routes.get("/healthz")
async def healthz() -> models.AliveOut:
    """The server answers."""
    return models.AliveOut(status="ok")


@routes.get("/readyz", responses={503: {"model": models.HealthOut}})
async def readyz(service: Serves, request: Request, response: Response) -> models.HealthOut:
    """Whether a worker is there: 200, or 503 with each worker's error, which says what to do. Without the token only whether, and the error's code."""
    found = health(service)
    if found.status in ("starting", "failed"):
        response.status_code = 503
    access: gate.Access = request.app.state.access
    return found if access.knows(request.headers) else found.model_copy(update={"queue": None, "workers": []})


def health(service: Service) -> models.HealthOut:
    workers = [views.worker(slot) for slot in service.dispatcher.slots]
    states = {worker.state for worker in workers}
    status = "ready" if "ready" in states else next((s for s in ("busy", "starting") if s in states), "failed")
    code = next((worker.error.code for worker in workers if worker.error), None) if status == "failed" else None
    return models.HealthOut.model_validate({"status": status, "code": code, "queue": service.store.queued(), "workers": workers})


@routes.get("/info")
async def info(service: Serves, request: Request) -> models.InfoOut:
    """Versions, engines, formats and every limit: what a page needs to know beforehand."""
    hello, limits = service.dispatcher.hello, service.limits
    used = await run_in_threadpool(service.vault.used)
    return models.InfoOut(
        version=VERSION,
        protocol=PROTOCOL,
        engines=[] if hello is None else list(hello.engines),
        formats={name: file for name, (file, _) in FORMATS.items()},
        limits={**limits.__dict__},
        segmenters=await run_in_threadpool(segment.desk_of(request).known),
        storage={"used": used, "quota": limits.quota},
        thumbnail_widths=list(pictures.WIDTHS),
    )


@routes.post("/session", status_code=204, response_model=None)
async def session(request: Request, body: models.SessionIn, response: Response) -> Response | None:
    """Changes the token into a cookie, for pages: a stream of events can't carry a header. 429: too many wrong ones; Retry-After says when to try again."""
    access: gate.Access = request.app.state.access
    guesses: Guesses = request.app.state.guesses
    address = request.client.host if request.client else ""
    if access.token is None:
        return None
    if seconds := guesses.wait(address):
        return gate.too_many(seconds)
    if not gate.same(body.token, access.token):
        guesses.wrong(address, body.token)
        raise DeniedError("This is not the token.", "The server printed it when it started, unless SAM3D_TOKEN was set.")
    secure = request.url.scheme == "https"
    response.set_cookie(gate.COOKIE, access.cookie, httponly=True, samesite="strict", secure=secure, path="/", max_age=30 * 86400)
    return None
