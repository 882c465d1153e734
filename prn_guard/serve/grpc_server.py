"""The Open Inference Protocol over gRPC, against the same service as REST.

Every method of the protocol takes one message and answers with one. They are registered here as
methods that take a stream of messages, which is the same on the wire: a handler then runs as soon
as the headers are there, so that a client without the token, or one whose message never ends, does
not hold memory first. Compressed messages are refused, because gRPC unpacks them before it compares
their size with any limit.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic, perf_counter
from typing import Any, Final, final

import grpc
import grpc.aio

from prn_guard.errors import InvalidArgumentError
from prn_guard.serve.errors import (
    RequestError,
)
from prn_guard.serve.grpc_call import Call, GrpcRules, seconds_left
from prn_guard.serve.grpc_codec import decode_request, encode_response
from prn_guard.serve.grpc_messages import MESSAGES, SERVICE, parse
from prn_guard.serve.logs import request_id
from prn_guard.serve.requests import InferRequest
from prn_guard.serve.service import VERSION, Service
from prn_guard.serve.tensors import output_arrays

_log: Final = logging.getLogger(__name__)
_IDENTITY_ONLY: Final = 1
_OPEN: Final = frozenset({"ServerLive", "ServerReady"})
"""Answered without a token, as `security.OPEN_PATHS` over REST."""
_INFER: Final = "ModelInfer"
_Answering = Callable[[AsyncIterator[bytes], Call], Awaitable[bytes]]


@final
class GrpcServer:
    """Serves one model; belongs to one event loop.

    Args:
        service: the model.
        rules: what is enforced.
        tls: private key and certificate chain as PEM; None serves plain text.
    """

    def __init__(
        self, service: Service, rules: GrpcRules, *, tls: tuple[bytes, bytes] | None = None
    ) -> None:
        self._service, self._rules, self._tls = service, rules, tls
        self._server: Any = None

    async def start(self, host: str, port: int) -> int:
        """Bind and answer.

        Args:
            host: name or address.
            port: 0 for a free one.

        Returns:
            The port.

        Raises:
            InvalidArgumentError: the address cannot be bound, or key and certificate are unusable.
        """
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # else a second server shares the port without a word
                ("grpc.max_receive_message_length", self._rules.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
                ("grpc.server_handshake_timeout_ms", _milliseconds(self._rules.header_timeout)),
                ("grpc.max_connection_idle_ms", _milliseconds(self._rules.keep_alive)),
            ],
            maximum_concurrent_rpcs=self._rules.max_calls,
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._bind(server, address)
        except (RuntimeError, ValueError) as error:
            raise InvalidArgumentError(
                f"gRPC cannot listen on {address}: {error}. Choose another port, or check the TLS "
                "key and certificate."
            ) from error
        await server.start()
        self._server = server
        return bound

    async def stop(self, grace: float) -> None:
        """Take no further requests, and end those in flight after `grace` seconds."""
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None

    def _bind(self, server: Any, address: str) -> int:
        if self._tls is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([self._tls])))

    def _handlers(self) -> Any:
        answers: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": self._service.ready},
            "ModelReady": self._model_ready,
            "ServerMetadata": lambda _: self._service.server_metadata(),
            "ModelMetadata": self._model_metadata,
        }
        calls = {name: self._simple(name, answer) for name, answer in answers.items()}
        calls[_INFER] = self._infer
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.stream_unary_rpc_method_handler(self._guarded(name, call))
                for name, call in calls.items()
            },
        )

    def _guarded(self, name: str, call: _Answering) -> Callable[[AsyncIterator[bytes], Any], Any]:
        """`call` with permission, errors as status codes, and one line of log."""

        async def handle(messages: AsyncIterator[bytes], context: Any) -> bytes:
            started = perf_counter()
            metadata = dict(context.invocation_metadata() or ())
            identity = request_id(_text(metadata.get("x-request-id")))
            state = Call(context, identity, self._rules)
            failure: RequestError | None = None
            code, answer = "CANCELLED", b""
            try:
                if name not in _OPEN:
                    self._admit(_text(metadata.get("authorization")))
                answer = await call(messages, state)
                code = "OK"
            except Exception as error:
                failure = _told(error, identity)
                code = failure.grpc
            finally:
                state.release()
                facts = {"request_id": identity, "method": name, "status": code}
                seconds = round(perf_counter() - started, 6)
                _log.info("request", extra={**facts, "seconds": seconds})
            if failure is not None:
                await _refuse(context, failure, identity)
            return answer

        return handle

    def _admit(self, authorization: str | None) -> None:
        try:
            self._rules.tokens.check(authorization)
        except RequestError as error:
            self._service.metrics.refused("grpc", error.outcome)
            raise

    def _simple(self, name: str, answer: Callable[[Any], Mapping[str, Any]]) -> _Answering:
        async def call(messages: AsyncIterator[bytes], state: Call) -> bytes:
            request = parse(f"{name}Request", await state.read(messages))
            return bytes(MESSAGES[f"{name}Response"](**answer(request)).SerializeToString())

        return call

    def _model_ready(self, request: Any) -> Mapping[str, Any]:
        self._service.check_model(request.name, request.version)
        return {"ready": self._service.ready}

    def _model_metadata(self, request: Any) -> Mapping[str, Any]:
        self._service.check_model(request.name, request.version)
        return self._service.model_metadata()

    async def _infer(self, messages: AsyncIterator[bytes], state: Call) -> bytes:
        service = self._service
        with service.admit("grpc"):
            remaining = state.remaining()
            began = monotonic()
            # Message and parsed request go at once: only the array is held while it waits.
            asked = self._decode(await state.read(messages))
            names, extras = service.outputs(asked.outputs)
            outcome = await service.classify(
                asked.values,
                request_id=state.identity,
                deadline=seconds_left(remaining, asked.timeout, monotonic() - began),
                extras=extras,
            )
            started = perf_counter()
            arrays = output_arrays(service.manifest, outcome)
            answer = encode_response(
                model_name=service.name,
                model_version=VERSION,
                request_id=asked.id,
                arrays={name: arrays[name] for name in names},
            )
            service.metrics.stage("encode", perf_counter() - started)
            return answer

    def _decode(self, content: bytes) -> InferRequest:
        service, started = self._service, perf_counter()
        request = parse("ModelInferRequest", content)
        service.check_model(request.model_name, request.model_version)
        asked = decode_request(
            request,
            service.manifest,
            max_pictures=service.limits.max_queue,
            max_numbers=self._rules.max_numbers,
        )
        service.metrics.stage("decode", perf_counter() - started)
        return asked


def _milliseconds(seconds: float) -> int:
    return max(1, round(1000 * seconds))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _told(error: Exception, identity: str) -> RequestError:
    """What the client may know of an error."""
    if isinstance(error, RequestError):
        return error
    _log.error("a request failed", exc_info=error, extra={"request_id": identity})
    return RequestError("The server failed on this request. The log says why.")


async def _refuse(context: Any, error: RequestError, identity: str) -> None:
    """Answer with an error; raises, as `abort` does, to end the call."""
    trailing = [("x-request-id", identity)]
    if error.retry_after is not None:
        trailing.append(("grpc-retry-pushback-ms", str(1000 * error.retry_after)))
    await context.abort(getattr(grpc.StatusCode, error.grpc), str(error), tuple(trailing))
