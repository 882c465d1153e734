"""One gRPC call: what is enforced before it is read, its one message, and its time."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, final

from prn_guard.serve.bodies import Budget
from prn_guard.serve.errors import DeadlineExceededError, MalformedError, SlowClientError
from prn_guard.serve.security import TokenCheck


@final
@dataclass(frozen=True, slots=True)
class GrpcRules:
    """What is enforced before a request is read."""

    tokens: TokenCheck
    budget: Budget
    """Of bytes that all requests may hold together, REST's among them."""
    max_message_bytes: int
    max_numbers: int
    """Of a tensor that does not come as raw bytes: while they are read nothing else is."""
    header_timeout: float
    """Seconds in which a new connection must have spoken HTTP/2, and TLS before it."""
    body_timeout: float
    """Seconds in which a request must have arrived."""
    keep_alive: float
    """Seconds that a connection may rest between calls."""
    max_calls: int
    """At a time; further ones are answered with RESOURCE_EXHAUSTED."""


@final
class Call:
    """One call: its id, and the bytes that it holds.

    Args:
        context: gRPC's.
        identity: the call's id.
        rules: what is enforced.
    """

    def __init__(self, context: Any, identity: str, rules: GrpcRules) -> None:
        self._context, self._rules, self._held = context, rules, 0
        self.identity = identity

    def remaining(self) -> float | None:
        """Seconds that the client still waits; None where it set no deadline."""
        found = self._context.time_remaining()
        return None if found is None else float(found)

    async def read(self, messages: AsyncIterator[bytes]) -> bytes:
        """The call's one message.

        Raises:
            MalformedError: none, or more than one.
            SlowClientError: it did not arrive in time.
            QueueFullError: the server holds too many bytes already.
        """
        found: list[bytes] = []
        try:
            async with asyncio.timeout(self._rules.body_timeout):
                async for one in messages:
                    if found:
                        raise MalformedError("More than one message was sent in one call.")
                    self._rules.budget.take(len(one))
                    self._held += len(one)
                    found.append(one)
        except TimeoutError as error:
            raise SlowClientError(
                f"The request did not arrive within {self._rules.body_timeout:g} seconds."
            ) from error
        if not found:
            raise MalformedError("The call ended without a message.")
        return found[0]

    def release(self) -> None:
        """Give the bytes back."""
        self._rules.budget.held -= self._held
        self._held = 0


def seconds_left(remaining: float | None, timeout: float | None, spent: float) -> float | None:
    """Seconds that may still pass, by the call's deadline and by the request's own parameter.

    Raises:
        DeadlineExceededError: none.
    """
    limits = [limit for limit in (remaining, timeout) if limit is not None]
    if not limits:
        return None
    left = min(limits) - spent
    if left <= 0:
        raise DeadlineExceededError("The deadline passed while the request was read.")
    return left
