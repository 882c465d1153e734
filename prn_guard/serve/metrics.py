"""What an operator measures: Prometheus metrics, in a registry of the server's own.

The registry is not the client library's global one, so that two servers in one process, as in the
tests, do not count for each other. Label values are words of this project, never of a client: each
new one is a time series for good.
"""

import math
from typing import Final, Literal, final

import numpy as np
import numpy.typing as npt
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from prn_guard.serve.alarm import AlarmState
from prn_guard.version import __version__

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Of `Metrics.render`."""
STAGES: Final = ("decode", "queue", "run", "encode")

Stage = Literal["decode", "queue", "run", "encode"]
Delivery = Literal["delivered", "failed", "dropped"]

_SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_PICTURES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_DISTANCES: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_MARGINS: Final = (*(-distance for distance in reversed(_DISTANCES)), 0.0, *_DISTANCES)


@final
class Metrics:
    """Counts and times; every method may be called from any thread.

    Args:
        threshold: of the detector; scores are counted by their distance from it.
        model: the name under which the guard is served.
    """

    def __init__(self, *, threshold: float, model: str) -> None:
        self._threshold = float(np.float32(threshold))
        self._alarms = 0
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        self._gauge("build_info", "1, for its labels.", "version", "model").labels(
            version=__version__, model=model
        ).set(1)
        self._requests = self._counter("requests", "Requests answered.", "protocol", "outcome")
        self._request_seconds = self._histogram(
            "request_seconds", "From arrival to answer.", _SECONDS, "protocol"
        )
        self._stage_seconds = self._histogram(
            "stage_seconds", "Parts of it: decode, queue, run, encode.", _SECONDS, "stage"
        )
        for stage in STAGES:  # a series that is absent cannot be told from a server that is
            self._stage_seconds.labels(stage=stage)
        self._batch = self._histogram("batch_pictures", "Pictures in one run.", _PICTURES)
        self._queue = self._gauge("queue_pictures", "Pictures that wait for a session.")
        self._pictures = self._counter("pictures", "Pictures answered.", "flagged")
        for flagged in ("true", "false"):
            self._pictures.labels(flagged=flagged)
        self._margins = self._histogram(
            "score_margin", "Score less threshold; up to 0 is not flagged.", _MARGINS
        )
        self._add_alarm()
        self._webhooks = self._counter("webhooks", "Messages to the webhook.", "outcome")
        self._quarantined = self._counter("quarantined", "Flagged pictures to keep.", "kept")

    def request(self, protocol: str, outcome: str, seconds: float) -> None:
        """One request was answered.

        Args:
            protocol: as "rest", "grpc" or "classify".
            outcome: "ok", or the `outcome` of the error that was answered with.
            seconds: from arrival to answer.
        """
        self._requests.labels(protocol=protocol, outcome=outcome).inc()
        self._request_seconds.labels(protocol=protocol).observe(seconds)

    def refused(self, protocol: str, outcome: str) -> None:
        """Whoever asked may not: counted, but not timed, as it would make the others look fast."""
        self._requests.labels(protocol=protocol, outcome=outcome).inc()

    def stage(self, name: Stage, seconds: float) -> None:
        """One part of answering a request, or a batch, took so long."""
        self._stage_seconds.labels(stage=name).observe(seconds)

    def batch(self, size: int) -> None:
        """A batch of so many pictures was run."""
        self._batch.observe(size)

    def queue(self, depth: int) -> None:
        """So many pictures wait."""
        self._queue.set(depth)

    def flagged(self, scores: npt.NDArray[np.float32], flags: npt.NDArray[np.bool_]) -> None:
        """Pictures were answered.

        Args:
            scores: `(N,)` float32, finite.
            flags: `(N,)` bool, `scores > threshold`.
        """
        count = int(flags.sum())
        self._pictures.labels(flagged="true").inc(count)
        self._pictures.labels(flagged="false").inc(len(flags) - count)
        for score in scores.tolist():
            self._margins.observe(score - self._threshold)

    def alarm(self, state: AlarmState) -> None:
        """The attack alarm is in this state now."""
        self._raised.set(state.raised)
        self._share.set(state.flagged_share)
        self._clean_share.set(state.clean_share)
        self._statistic.set(state.statistic)
        self._alarm_threshold.set(state.threshold)
        self._alarm_count.inc(max(state.alarms - self._alarms, 0))
        self._alarms = state.alarms

    def webhook(self, outcome: Delivery) -> None:
        """A message to the webhook was delivered, or not."""
        self._webhooks.labels(outcome=outcome).inc()

    def quarantined(self, *, kept: bool) -> None:
        """A flagged picture was kept in the quarantine folder, or could not be."""
        self._quarantined.labels(kept=str(kept).lower()).inc()

    def render(self) -> bytes:
        """Everything in Prometheus' text format, of media type `CONTENT_TYPE`."""
        return bytes(generate_latest(self._registry))

    def _add_alarm(self) -> None:
        self._raised = self._gauge("attack_alarm", "1 while the attack alarm is raised.")
        self._share = self._gauge("flagged_share", "Of the alarm's window of pictures.")
        self._clean_share = self._gauge(
            "clean_share", "Share of clean pictures that may be flagged without an attack."
        )
        self._statistic = self._gauge(
            "attack_alarm_statistic", "Evidence of an attack: log10(1 + M)."
        )
        self._alarm_threshold = self._gauge(
            "attack_alarm_threshold", "Evidence at which the alarm is raised."
        )
        self._alarm_count = self._counter("attack_alarms", "How often the alarm was raised.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"prn_guard_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"prn_guard_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, upto: tuple[float, ...], *labels: str) -> Histogram:
        buckets = (*upto, math.inf)
        return Histogram(
            f"prn_guard_{name}", text, labels, buckets=buckets, registry=self._registry
        )
