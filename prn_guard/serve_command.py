"""`prn-guard serve`: the command's flags. What they do is imported when it runs."""

import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from prn_guard.errors import InvalidArgumentError

EXIT_GAVE_UP = 1


def _flag(text: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, show_default=False)


def serve(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="What `python -m export` wrote.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        _flag("Settings that neither flags nor PRN_GUARD_* give, as TOML.", metavar="FILE"),
    ] = None,
    model_name: Annotated[str | None, _flag("Name of the model; the folder's own.")] = None,
    public_key: Annotated[
        Path | None,
        _flag("Refuse the folder unless it is signed by this key.", metavar="FILE"),
    ] = None,
    engine: Annotated[str | None, _flag("local (default), or ray.")] = None,
    devices: Annotated[
        str | None, _flag("One session each, as cpu (default) or cuda:0,cuda:1.")
    ] = None,
    threads: Annotated[int | None, _flag("Threads of each session; all cores if left out.")] = None,
    page: Annotated[
        bool | None, _flag("The operator's page at / (default), or not.", "--page/--no-page")
    ] = None,
    host: Annotated[str | None, _flag("Address to listen on; 127.0.0.1.")] = None,
    port: Annotated[int | None, _flag("REST; 8000. 0 takes a free one.")] = None,
    grpc: Annotated[bool | None, _flag("gRPC too (default), or not.", "--grpc/--no-grpc")] = None,
    grpc_port: Annotated[int | None, _flag("gRPC; 8001.")] = None,
    metrics_port: Annotated[
        int | None, _flag("Metrics on a port of their own, not at /metrics of REST.")
    ] = None,
    max_batch: Annotated[int | None, _flag("Pictures in one run; 32.")] = None,
    max_queue: Annotated[int | None, _flag("Pictures that wait; 256.")] = None,
    max_delay_ms: Annotated[
        float | None, _flag("Milliseconds a picture waits for others; 2.")
    ] = None,
    max_timeout: Annotated[float | None, _flag("Seconds a request may take; 30.")] = None,
    max_body_bytes: Annotated[int | None, _flag("Of one request; 32 MiB.")] = None,
    max_json_bytes: Annotated[
        int | None, _flag("Of its JSON; 4 MiB. Tensors as binary data do not count.")
    ] = None,
    max_buffered_bytes: Annotated[int | None, _flag("Of all requests; 512 MiB.")] = None,
    max_pixels: Annotated[
        int | None, _flag("Of a JPEG or PNG, before it is decoded; 50 million.")
    ] = None,
    max_connections: Annotated[int | None, _flag("Open at a time; 512.")] = None,
    header_timeout: Annotated[
        float | None, _flag("Seconds for a request's head, and to take an answer; 10.")
    ] = None,
    body_timeout: Annotated[float | None, _flag("Seconds for a request's body; 30.")] = None,
    keep_alive: Annotated[float | None, _flag("Seconds a connection may rest; 60.")] = None,
    stop_delay: Annotated[
        float | None, _flag("Seconds between not being ready and stopping; 1.")
    ] = None,
    stop_timeout: Annotated[float | None, _flag("Seconds to answer what is in flight; 30.")] = None,
    token_file: Annotated[
        Path | None,
        _flag("Bearer token that clients must show; or PRN_GUARD_TOKEN.", metavar="FILE"),
    ] = None,
    insecure: Annotated[
        bool | None, _flag("Listen beyond this machine without a token.", "--insecure")
    ] = None,
    tls_cert: Annotated[Path | None, _flag("Certificate and chain, PEM.", metavar="FILE")] = None,
    tls_key: Annotated[Path | None, _flag("Its key, PEM.", metavar="FILE")] = None,
    alarm_pictures: Annotated[
        float | None, _flag("Clean pictures between false alarms, at least; 1e7.")
    ] = None,
    alarm_window: Annotated[
        int | None, _flag("Pictures that the flagged share is shown over; 1000.")
    ] = None,
    quarantine: Annotated[
        Path | None, _flag("Keep flagged pictures in this folder.", metavar="FOLDER")
    ] = None,
    quarantine_bytes: Annotated[int | None, _flag("Most bytes of it; 256 MiB.")] = None,
    log_level: Annotated[str | None, _flag("debug, info (default), warning or error.")] = None,
) -> None:
    """Serve a guard over REST and gRPC: the Open Inference Protocol, and a page at /."""
    flags = dict(locals())
    del flags["config"]
    try:
        from prn_guard.serve import logs
        from prn_guard.serve.run import run
        from prn_guard.serve.settings import read_settings
    except ModuleNotFoundError as error:
        raise _missing(error, "server") from error
    settings = read_settings(flags, config)
    logs.configure(settings.log_level)
    logs.started(settings.printed())
    running = run if settings.engine == "local" else _ray_run()
    if not running(settings):
        os._exit(EXIT_GAVE_UP)  # a session that hangs would keep its thread, and so the process


def _ray_run() -> Any:
    """`run` of the adapter for Ray Serve."""
    try:
        return import_module("prn_guard.serve.ray_serve").run
    except ModuleNotFoundError as error:
        raise _missing(error, "ray") from error


def _missing(error: ModuleNotFoundError, extra: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{error.name} is missing. Install prn-guard[{extra}], which brings what this needs."
    )


def add_to(app: typer.Typer) -> None:
    """Add the command to `prn-guard`."""
    app.command()(serve)
