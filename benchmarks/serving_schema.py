"""Requests that schemathesis makes out of the OpenAPI schema, valid and not: no answer is 500."""

import contextlib
import json
from collections import Counter
from importlib.metadata import version
from typing import Any, Final

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

ALLOWED: Final = frozenset({200, 400, 401, 403, 404, 405, 408, 411, 413, 415, 431, 503, 504})
"""504 answers a deadline that a request sets itself; 503 says when to come again."""


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
