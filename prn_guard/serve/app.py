"""The REST application: paths, their handlers, and what the OpenAPI schema says of them."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from importlib import resources
from typing import Any, Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from prn_guard.serve.answers import ServerState
from prn_guard.serve.bodies import Budget
from prn_guard.serve.errors import (
    MethodError,
    RequestError,
    UnknownModelError,
)
from prn_guard.serve.gateway import Gateway, Rules
from prn_guard.serve.infer import Handlers
from prn_guard.serve.metrics import CONTENT_TYPE, Metrics
from prn_guard.serve.schema import CLASSIFY_SCHEMA, ERROR, infer_schema, path_parameters
from prn_guard.serve.security import TokenCheck
from prn_guard.serve.service import VERSION, Service
from prn_guard.serve.settings import ServeSettings
from prn_guard.version import __version__

Handler = Callable[..., Awaitable[Response]]

_MEDIA: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX: Final = "index.html"
_PATH_PARAMETER: Final = re.compile(r"{(\w+)}")


def build_app(
    service: Service,
    handlers: Handlers,
    settings: ServeSettings,
    *,
    tokens: TokenCheck,
    budget: Budget,
) -> ASGIApp:
    """Everything that is served over HTTP, behind its gateway.

    Args:
        service: the model.
        handlers: of inference requests.
        settings: limits, page, metrics.
        tokens: who may ask.
        budget: of bytes that all requests may hold.
    """
    app = _bare_app()
    page = _page_files() if settings.page else {}
    _add_protocol(app, service, handlers)
    _add_own(app, service, handlers)
    if settings.metrics_port is None:
        _add(app, "/metrics", _metrics(service.metrics, service))
    for path, response in page.items():
        _add(app, path, response)
    return _behind_gateway(app, service, _rules(settings, tokens, budget, frozenset(page)))


def build_metrics_app(
    service: Service, settings: ServeSettings, *, tokens: TokenCheck, budget: Budget
) -> ASGIApp:
    """`/metrics` alone, for a port of its own."""
    app = _bare_app()
    _add(app, "/metrics", _metrics(service.metrics, service))
    return _behind_gateway(app, service, _rules(settings, tokens, budget, frozenset()))


def _behind_gateway(app: FastAPI, service: Service, rules: Rules) -> ASGIApp:
    refused = partial(service.metrics.refused, "rest")
    return Gateway(app, rules, lambda: service.stopping, refused)


def _rules(
    settings: ServeSettings, tokens: TokenCheck, budget: Budget, open_paths: frozenset[str]
) -> Rules:
    trusting = settings.loopback and not settings.guarded and not settings.insecure
    return Rules(
        tokens=tokens,
        open_paths=open_paths,
        loopback_host=settings.host if trusting else None,
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        budget=budget,
    )


def _bare_app() -> FastAPI:
    app = FastAPI(
        title="PRN-Guard",
        version=__version__,
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(RequestError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(Exception, _refuse)
    return app


class _Refusal(Response):
    """Lets the gateway, which has the request's answer, refuse it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        await scope["state"]["answer"].refuse(self._error)


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return _Refusal(error)
    path = request.url.path[:200]
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return _Refusal(MethodError(f"{path} does not take {request.method[:20]}.", allow))
    return _Refusal(UnknownModelError(f"There is nothing at {path}."))


def _add(
    app: FastAPI,
    path: str,
    handler: Handler,
    *,
    method: str = "GET",
    schema: dict[str, Any] | None = None,
) -> None:
    described = {"responses": {}, "parameters": [], **(schema or {})}
    described["responses"] = {**described["responses"], "default": ERROR}
    app.add_api_route(
        path,
        handler,
        methods=[method],
        response_class=Response,
        openapi_extra=described,
        operation_id=f"{method} {path}",
    )


def _json(content: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, headers={"Cache-Control": "no-store"})


def _add_protocol(app: FastAPI, service: Service, handlers: Handlers) -> None:
    """What the Open Inference Protocol has."""

    async def live() -> Response:
        return _json({"live": True})

    async def ready() -> Response:
        return _json({"ready": service.ready}, 200 if service.ready else 503)

    async def server() -> Response:
        return _json(service.server_metadata())

    async def model(request: Request) -> Response:
        _check(service, request)
        return _json(service.model_metadata())

    async def model_ready(request: Request) -> Response:
        _check(service, request)
        content = {"name": service.name, "ready": service.ready}
        return _json(content, 200 if service.ready else 503)

    _add(app, "/v2/health/live", live)
    _add(app, "/v2/health/ready", ready)
    _add(app, "/v2", server)
    infer = infer_schema(service.manifest, max_pictures=service.limits.max_queue)
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        named = path_parameters(_PATH_PARAMETER.findall(path), service.name, VERSION)
        _add(app, path, model, schema={"parameters": named})
        _add(app, f"{path}/ready", model_ready, schema={"parameters": named})
        schema = {**infer, "parameters": [*named, *infer["parameters"]]}
        _add(app, f"{path}/infer", handlers.infer, method="POST", schema=schema)


def _add_own(app: FastAPI, service: Service, handlers: Handlers) -> None:
    """What this project has beside it."""

    async def state() -> Response:
        return _json(server_state(service, handlers))

    async def acknowledge() -> Response:
        service.watch.acknowledge()
        return _json(server_state(service, handlers))

    _add(app, "/v1/classify", handlers.classify, method="POST", schema=CLASSIFY_SCHEMA)
    _add(app, "/v1/state", state)
    _add(app, "/v1/alarm/acknowledge", acknowledge, method="POST")


def server_state(service: Service, handlers: Handlers) -> ServerState:
    """What `/v1/state` answers."""
    manifest = service.manifest
    alarm = asdict(service.watch.alarm)
    return {
        "model_name": service.name,
        "model_version": VERSION,
        "ready": service.ready,
        "waiting": service.waiting,
        "width": manifest.input.width,
        "height": manifest.input.height,
        "channels": manifest.input.channels,
        "class_names": list(manifest.class_names),
        "flag_threshold": manifest.detection.threshold,
        "false_positive_rate": manifest.detection.target_false_positive_rate,
        "explains": manifest.names.rectified is not None,
        "compares": handlers.compares,
        "alarm": {
            "flagged_share": alarm["flagged_share"],
            "window": alarm["window"],
            "seen": alarm["seen"],
            "statistic": alarm["statistic"],
            "threshold": alarm["threshold"],
            "raised": alarm["raised"],
            "clean_share": alarm["clean_share"],
            "alarms": alarm["alarms"],
        },
    }


def _check(service: Service, request: Request) -> None:
    service.check_model(request.path_params["name"], request.path_params.get("version", ""))


def _metrics(metrics: Metrics, service: Service) -> Handler:
    async def answer() -> Response:
        metrics.queue(service.waiting)
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return answer


def _page_files() -> dict[str, Handler]:
    """The operator's page: every file of `page/` by its path, read once; no other can be asked for.

    `/` is its `index.html`.
    """
    folder = resources.files("prn_guard.serve").joinpath("page")
    if not folder.is_dir():
        return {}
    found: dict[str, Handler] = {}
    for entry in folder.iterdir():
        media = _MEDIA.get(entry.name[entry.name.rfind(".") :])
        if media is not None:
            path = "/" if entry.name == _INDEX else f"/{entry.name}"
            found[path] = _file(entry.read_bytes(), media)
    return found


def _file(content: bytes, media: str) -> Handler:
    async def answer() -> Response:
        headers = {"Content-Type": media, "Cache-Control": "no-cache"}
        return Response(content, headers=headers)

    return answer
