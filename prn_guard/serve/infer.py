"""The handlers of `infer` and `/v1/classify`: from a request's bytes to the bytes of its answer."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeVar, final

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prn_guard.errors import DataError, TooManyPixelsError
from prn_guard.images import decode_picture
from prn_guard.preparation import to_tensor
from prn_guard.serve.answers import Classification
from prn_guard.serve.bodies import Body
from prn_guard.serve.codec import HEADER_LENGTH, encode_response
from prn_guard.serve.engine import Outcome
from prn_guard.serve.errors import (
    DeadlineExceededError,
    DisconnectedError,
    InferenceFailedError,
    MalformedError,
    MediaTypeError,
    TooLargeError,
)
from prn_guard.serve.explain import BareClassifier, class_answer, explain
from prn_guard.serve.forms import picture_bytes
from prn_guard.serve.requests import parse_request
from prn_guard.serve.service import VERSION, Service
from prn_guard.serve.tensors import output_arrays

TIMEOUT_HEADER: Final = "x-request-timeout-ms"
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}

Answered = TypeVar("Answered")


@final
class Handlers:
    """Answers inference requests over HTTP.

    Args:
        service: the model.
        bare: the classifier without its guard, for explanations.
        max_pixels: of one picture.
        max_json: bytes of one request's JSON.
        decoders: threads that decode pictures.
    """

    def __init__(
        self,
        service: Service,
        *,
        bare: BareClassifier | None = None,
        max_pixels: int,
        max_json: int,
        decoders: int = 2,
    ) -> None:
        self._service, self._bare = service, bare
        self._max_pixels, self._max_json = max_pixels, max_json
        self._pool = ThreadPoolExecutor(decoders, thread_name_prefix="decode")

    @property
    def compares(self) -> bool:
        """Whether explanations have the bare classifier's answers."""
        return self._bare is not None

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def infer(self, request: Request) -> Response:
        """`POST /v2/models/{name}[/versions/{version}]/infer`."""
        service, body = self._service, _body(request)
        with service.admit("rest"):
            ends = _Deadline(service, request)
            service.check_model(request.path_params["name"], request.path_params.get("version", ""))
            content = await _read(request)
            started = perf_counter()
            asked = parse_request(
                content,
                request.headers.get(HEADER_LENGTH),
                service.manifest,
                max_pictures=service.limits.max_queue,
                max_json=self._max_json,
            )
            names, extras = service.outputs(asked.outputs)
            ends.allow(asked.timeout)
            service.metrics.stage("decode", perf_counter() - started)
            outcome = await _unless_gone(
                body,
                service.classify(
                    asked.values,
                    request_id=request.state.request_id,
                    deadline=ends.left(),
                    extras=extras,
                ),
            )
            started = perf_counter()
            arrays = output_arrays(service.manifest, outcome)
            outputs = asked.outputs or dict.fromkeys(names, asked.binary)
            encoded = encode_response(
                model_name=service.name,
                model_version=VERSION,
                request_id=asked.id,
                arrays={name: arrays[name] for name in names},
                binary=outputs,
            )
            service.metrics.stage("encode", perf_counter() - started)
            return Response(encoded.body, headers=encoded.headers)

    async def classify(self, request: Request) -> Response:
        """`POST /v1/classify`."""
        service, body = self._service, _body(request)
        with service.admit("classify"):
            ends = _Deadline(service, request)
            explained = _query_flag(request, "explain", default=False)
            resize = _query_flag(request, "resize", default=True)
            content = await _read(request)
            kind = request.headers.get("content-type")
            started = perf_counter()
            picture = await ends.within(
                self._in_thread(partial(self._decode, content, kind, resize))
            )
            service.metrics.stage("decode", perf_counter() - started)
            manifest = service.manifest
            values = to_tensor(picture[None], manifest.input, manifest.tensor)
            outcome = await _unless_gone(
                body,
                service.classify(
                    values,
                    request_id=request.state.request_id,
                    deadline=ends.left(),
                    extras=manifest.names.on_request if explained else (),
                ),
            )
            answer = self._answer(outcome, request.state.request_id)
            if explained:
                answer["explanation"] = await ends.within(
                    self._in_thread(partial(explain, picture, outcome, manifest, self._bare))
                )
            return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    def _answer(self, outcome: Outcome, request_id: str) -> Classification:
        verdict, manifest = outcome.verdict, self._service.manifest
        found = class_answer(verdict.logits[0], manifest.class_names, int(verdict.label[0]))
        return {
            "label": found["label"],
            "class_name": found["class_name"],
            "probability": found["probability"],
            "request_id": request_id,
            "model_name": self._service.name,
            "model_version": VERSION,
            "flagged": bool(verdict.flagged[0]),
            "score": float(verdict.score[0]),
            "threshold": manifest.detection.threshold,
        }

    def _decode(self, content: bytes, kind: str | None, resize: bool) -> npt.NDArray[np.uint8]:
        """In a thread: the picture of a body, as the classifier takes it."""
        manifest = self._service.manifest
        try:
            return decode_picture(
                picture_bytes(content, kind),
                manifest.input,
                resize=resize,
                shorter=manifest.resize,
                max_pixels=self._max_pixels,
            )
        except TooManyPixelsError as error:
            raise TooLargeError(str(error)) from error
        except DataError as error:
            raise MalformedError(str(error)) from error

    def _in_thread(self, function: Callable[[], Answered]) -> asyncio.Future[Answered]:
        return asyncio.get_running_loop().run_in_executor(self._pool, function)


@final
class _Deadline:
    """When a request must be answered: its own wish, within the configured maximum."""

    def __init__(self, service: Service, request: Request) -> None:
        self._service = service
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._seconds = service.deadline(_timeout_header(request))

    def allow(self, seconds: float | None) -> None:
        """Take another wish into account; the shorter one holds."""
        if seconds is not None:
            self._seconds = min(self._seconds, self._service.deadline(seconds))

    def left(self) -> float:
        """Seconds from now.

        Raises:
            DeadlineExceededError: none is left.
        """
        left = self._started + self._seconds - self._now()
        if left <= 0:
            raise self._exceeded()
        return left

    async def within(self, awaited: Awaitable[Answered]) -> Answered:
        """Wait for something, at most until then.

        Raises:
            DeadlineExceededError: it took longer.
        """
        try:
            async with asyncio.timeout(self.left()):
                return await awaited
        except TimeoutError as error:
            raise self._exceeded() from error

    def _exceeded(self) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"The request was not answered within its {self._seconds:g} seconds. Allow it more "
            "time, or send fewer requests at once."
        )


def _timeout_header(request: Request) -> float | None:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise MalformedError(f"{TIMEOUT_HEADER} is {text[:50]!r}; expected milliseconds above 0.")
    return found / 1000


def _body(request: Request) -> Body:
    body = request.state.body
    if not isinstance(body, Body):
        raise InferenceFailedError("The application runs without its gateway.")
    return body


async def _read(request: Request) -> bytes:
    """The body, not compressed: what a few bytes may become is not known before."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise MediaTypeError(f"The Content-Encoding is {encoding[:50]!r}; send the body as it is.")
    return await _body(request).read()


def _query_flag(request: Request, name: str, *, default: bool) -> bool:
    text = request.query_params.get(name)
    if text is None:
        return default
    if text.lower() not in _FLAGS:
        raise MalformedError(f"The query parameter {name!r} must be true or false.")
    return _FLAGS[text.lower()]


async def _unless_gone(body: Body, answering: Coroutine[Any, Any, Answered]) -> Answered:
    """The answer, given up as soon as the client has gone away: nobody else would read it."""
    task = asyncio.create_task(answering)
    watcher = asyncio.create_task(body.gone())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise DisconnectedError("The client went away.")
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
