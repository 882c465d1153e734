"""Requests that nobody wrote by hand: no answer is 500.

Out of the OpenAPI schema by schemathesis, valid and not; and, because OpenAPI cannot say what the
binary extension is, infer requests with it of which bytes were changed, removed and added.
"""

import contextlib
import json
from collections import Counter
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from benchmarks.serving_client import HEAD_END, connect, http, infer_request
from benchmarks.serving_steady import MODEL, PICTURES

ALLOWED: Final = frozenset({200, 400, 401, 403, 404, 405, 408, 411, 413, 415, 431, 503, 504})
"""504 answers a deadline that a request sets itself; 503 says when to come again."""

_PIECES: Final = [b"null", b"-1", b"1e999", b"NaN", b"[", b"{}", b'"', b"\xff\xfe", b"0" * 400]


def fuzz(port: int, examples: int) -> dict[str, Any]:
    """Send `examples` valid and as many invalid requests to every operation.

    Returns:
        `operations`, `requests`, `statuses` by their number, and `unexpected`: answers with a
        status that is not `ALLOWED`, or whose error is not the protocol's, each as one line.
    """
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    statuses: Counter[int] = Counter()
    unexpected: list[str] = []
    operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        operations += 1
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _fuzz_one(operation, mode, examples, statuses, unexpected)
    return {
        "version": version("schemathesis"),
        "operations": operations,
        "requests": sum(statuses.values()),
        "statuses": {str(status): statuses[status] for status in sorted(statuses)},
        "unexpected": unexpected,
    }


async def fuzz_binary(port: int, count: int) -> dict[str, Any]:
    """Send `count` damaged infer requests with the binary extension.

    Returns:
        As `fuzz`.
    """
    rng = np.random.default_rng(0)
    whole = infer_request(MODEL, PICTURES[:1])
    head, _, body = whole.partition(HEAD_END)
    length = len(body) - PICTURES[0].nbytes
    statuses: Counter[int] = Counter()
    unexpected: list[str] = []
    connection = await connect(port)
    for _ in range(count):
        text, stated = _damaged(body, length, rng)
        path = head.split(b" ")[1].decode()
        answer = await connection.ask(http(path, text, Inference_Header_Content_Length=stated))
        statuses[answer.status] += 1
        error = answer.status == 400 and list(json.loads(answer.body)) == ["error"]
        if answer.status != 200 and not error:
            unexpected.append(f"{answer.status} {answer.body[:200]!r} to {text[:200]!r}, {stated}")
        if connection.closed:
            connection = await connect(port)
    connection.close()
    return {
        "requests": count,
        "statuses": {str(status): statuses[status] for status in sorted(statuses)},
        "unexpected": unexpected,
    }


def _damaged(body: bytes, length: int, rng: np.random.Generator) -> tuple[bytes, str]:
    """A body, and the length that its header states; one of them at least is damaged."""
    text = bytearray(body)
    if rng.random() < 0.8:
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, length))
            kind = rng.integers(3)
            if kind == 0:
                text[at] = rng.integers(0x20, 0x7F) if rng.random() < 0.7 else rng.integers(256)
            elif kind == 1:
                del text[at : at + int(rng.integers(1, 9))]
            else:
                text[at:at] = bytes(rng.choice(_PIECES))
        if rng.random() < 0.7:
            return bytes(text), str(length + len(text) - len(body))
    stated = [str(rng.integers(-5, len(text) + 5)), "9" * 20, "0x10", "1.0", "", "\xb2"]
    return bytes(text), str(rng.choice(stated))


def _fuzz_one(
    operation: Any,
    mode: GenerationMode,
    examples: int,
    statuses: Counter[int],
    unexpected: list[str],
) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        response = case.call(timeout=30)
        statuses[response.status_code] += 1
        if not _as_documented(response):
            unexpected.append(
                f"{case.method} {case.formatted_path}: {response.status_code} "
                f"{response.content[:200]!r}"
            )

    with contextlib.suppress(Unsatisfiable):  # nothing about the request can be invalid
        send()


def _as_documented(response: Any) -> bool:
    if response.status_code not in ALLOWED:
        return False
    if response.status_code == 200:
        return True
    try:
        content = json.loads(response.content)
    except ValueError:
        return False
    ready = response.status_code == 503 and "ready" in content
    return list(content) == ["error"] or ready
