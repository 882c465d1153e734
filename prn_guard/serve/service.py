"""What REST, gRPC and Ray share: one model, and what is told of every answered request."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, final

from prn_guard.contract import Manifest
from prn_guard.serve.engine import Outcome, Values

VERSION = "1"


@final
class Service:
    """Skeleton; signatures are final (the constructor's are not)."""

    name: str
    """The model's name; its only version is `VERSION`."""
    manifest: Manifest

    @property
    def ready(self) -> bool:
        """Every session is warm, and the server does not stop."""
        raise NotImplementedError

    def check_model(self, name: str, version: str) -> None:
        """Refuse another model than this; an empty version is the only one.

        Raises:
            UnknownModelError: it is another.
        """
        raise NotImplementedError

    def server_metadata(self) -> dict[str, Any]:
        """`{"name", "version", "extensions"}` of the protocol."""
        raise NotImplementedError

    def model_metadata(self) -> dict[str, Any]:
        """`{"name", "versions", "platform", "inputs", "outputs"}`, tensors as the protocol's JSON
        has them: `{"name", "datatype", "shape"}`, -1 for the batch."""
        raise NotImplementedError

    @contextlib.contextmanager
    def admit(self, protocol: str) -> Iterator[None]:
        """Around each inference request, from before its body is read until it is answered.

        It counts what is in flight, and tells metrics of outcome and duration: callers of
        `classify` must not do that themselves.

        Args:
            protocol: "rest", "grpc" or "classify".

        Raises:
            StoppingError: the server stops.
        """
        raise NotImplementedError
        yield

    def deadline(self, wanted: float | None) -> float:
        """Seconds that a request may take: what it asks for, at most the configured maximum.

        Raises:
            MalformedError: not a positive finite number.
        """
        raise NotImplementedError

    async def classify(
        self,
        values: Values,
        *,
        request_id: str,
        deadline: float | None = None,
        extras: Sequence[str] = (),
    ) -> Outcome:
        """Answer checked values (`tensors.input_values`), then tell metrics, alarm, quarantine.

        Raises:
            RequestError: as `Batcher.submit`.
        """
        raise NotImplementedError
