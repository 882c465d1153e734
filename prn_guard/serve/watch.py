"""What is told of every answered picture: counts, the attack alarm, the quarantine."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, final

from prn_guard.contract import Manifest
from prn_guard.preparation import to_pixels
from prn_guard.serve.alarm import AlarmState, AttackAlarm
from prn_guard.serve.engine import Values
from prn_guard.verdict import Verdict

if TYPE_CHECKING:
    from prn_guard.serve.metrics import Metrics
    from prn_guard.serve.quarantine import Quarantine

_MOST_PENDING: Final = 64
"""Pictures on their way to the quarantine; under attack the disk may be slower than the guard."""

_log: Final = logging.getLogger(__name__)


@final
class Watch:
    """Sees every answered picture; used from the event loop's thread only.

    Args:
        manifest: of the model.
        metrics: counts.
        alarm: the sequential test.
        quarantine: keeps flagged pictures; None keeps none.
        on_alarm: told when the alarm is raised; must not block.
    """

    def __init__(
        self,
        manifest: Manifest,
        metrics: "Metrics",
        alarm: AttackAlarm,
        *,
        quarantine: "Quarantine | None" = None,
        on_alarm: Callable[[AlarmState], None] = lambda _state: None,
    ) -> None:
        self._manifest, self._metrics, self._alarm = manifest, metrics, alarm
        self._quarantine, self._on_alarm = quarantine, on_alarm
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="quarantine")
        self._room = threading.BoundedSemaphore(_MOST_PENDING)
        metrics.alarm(alarm.state)

    @property
    def alarm(self) -> AlarmState:
        """What the alarm shows."""
        return self._alarm.state

    def acknowledge(self) -> AlarmState:
        """Start the alarm anew."""
        self._alarm.acknowledge()
        _log.warning("the attack alarm was acknowledged")
        self._metrics.alarm(self._alarm.state)
        return self._alarm.state

    def seen(self, values: Values, verdict: Verdict, request_id: str) -> None:
        """Take one request's pictures, once they are answered.

        Args:
            values: what the graph took.
            verdict: what it said.
            request_id: for the log and the quarantine.
        """
        self._metrics.flagged(verdict.score, verdict.flagged)
        before = self._alarm.state.raised
        raised = self._alarm.observe(verdict.flagged.tolist())
        state = self._alarm.state
        self._metrics.alarm(state)
        if raised:
            shown = {name: getattr(state, name) for name in state.__slots__}
            _log.error("attack alarm: more pictures are flagged than the calibration explains",
                       extra={"alarm": shown, "request_id": request_id})  # fmt: skip
            self._on_alarm(state)
        elif before and not state.raised:
            _log.warning("the attack alarm has recovered", extra={"request_id": request_id})
        if self._quarantine is not None:
            for row in verdict.flagged.nonzero()[0].tolist():
                self._keep(self._quarantine, values[row], verdict, row, request_id)

    def close(self) -> None:
        """Write what is on its way to the quarantine, and close it."""
        self._pool.shutdown()
        if self._quarantine is not None:
            self._quarantine.close()

    def _keep(
        self, quarantine: "Quarantine", values: Values, verdict: Verdict, row: int, request_id: str
    ) -> None:
        if not self._room.acquire(blocking=False):
            self._metrics.quarantined(kept=False)
            return
        label = int(verdict.label[row])
        facts = {
            "request_id": request_id,
            "row": row,
            "label": label,
            "class_name": self._manifest.class_names[label],
            "score": float(verdict.score[row]),
            "threshold": self._manifest.detection.threshold,
        }
        copied = values.copy()  # else the whole request's body stays in memory

        def keep() -> None:
            try:
                picture = to_pixels(copied[None], self._manifest.input, self._manifest.tensor)[0]
                self._metrics.quarantined(kept=quarantine.keep(picture, facts) is not None)
            except Exception:
                _log.exception("a flagged picture could not be kept")
                self._metrics.quarantined(kept=False)
            finally:
                self._room.release()

        self._pool.submit(keep)
