"""Putting a server together from its settings: sessions, alarm, quarantine, application."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, final

from prn_guard.contract import BARE_FILE
from prn_guard.serve.alarm import AlarmState, AttackAlarm
from prn_guard.serve.bodies import Budget
from prn_guard.serve.engine import Engine
from prn_guard.serve.explain import BareClassifier
from prn_guard.serve.infer import Handlers
from prn_guard.serve.metrics import Metrics
from prn_guard.serve.quarantine import Quarantine
from prn_guard.serve.security import TokenCheck
from prn_guard.serve.service import Limits, Service
from prn_guard.serve.settings import ServeSettings
from prn_guard.serve.watch import Watch
from prn_guard.serve.webhook import Webhook, alarm_message

_log: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Parts:
    """What a server consists of before anything listens."""

    settings: ServeSettings
    service: Service
    handlers: Handlers
    tokens: TokenCheck
    budget: Budget
    webhook: Webhook | None


def build(settings: ServeSettings) -> Parts:
    """Open the sessions and put everything together.

    Args:
        settings: checked.

    Raises:
        PrnGuardError: a file, a device, a key or a folder cannot be used.
    """
    engine = Engine(
        settings.folder,
        settings.devices,
        max_batch=settings.max_batch,
        threads=settings.threads,
        public_key=settings.public_key,
    )
    _log.info("sessions are open", extra={"providers": engine.providers})
    return assemble(settings, engine)


def assemble(settings: ServeSettings, engine: Engine) -> Parts:
    """Put everything together around sessions that are open.

    Args:
        settings: checked.
        engine: the sessions.

    Raises:
        PrnGuardError: a file, a key or a folder cannot be used.
    """
    tokens = TokenCheck(settings.secret())
    manifest = engine.manifest
    metrics = Metrics(threshold=manifest.detection.threshold, model=settings.name)
    webhook = _webhook(settings, metrics)
    watch = Watch(
        manifest,
        metrics,
        AttackAlarm(
            false_positive_rate=manifest.detection.target_false_positive_rate,
            calibration_pictures=manifest.detection.calibration_pictures,
            pictures_between_false_alarms=settings.alarm_pictures,
            window=settings.alarm_window,
        ),
        quarantine=_quarantine(settings),
        on_alarm=partial(_tell, webhook, settings.name),
    )
    limits = Limits(
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        max_delay=settings.max_delay_ms / 1000,
        max_timeout=settings.max_timeout,
    )
    service = Service(settings.name, engine, metrics=metrics, watch=watch, limits=limits)
    handlers = Handlers(
        service,
        bare=_bare(settings, engine),
        max_pixels=settings.max_pixels,
        max_json=settings.max_json_bytes,
        decoders=max(1, min(4, os.cpu_count() or 1)),
    )
    return Parts(
        settings=settings,
        service=service,
        handlers=handlers,
        tokens=tokens,
        budget=Budget(settings.max_buffered_bytes),
        webhook=webhook,
    )


def _bare(settings: ServeSettings, engine: Engine) -> BareClassifier | None:
    """Only where the page may ask for it: it takes the classifier's memory a second time."""
    if not settings.page or all(entry.name != BARE_FILE for entry in engine.manifest.files):
        return None
    return BareClassifier(
        settings.folder, engine.manifest, device=settings.devices[0], threads=settings.threads
    )


def _quarantine(settings: ServeSettings) -> Quarantine | None:
    if settings.quarantine is None:
        return None
    return Quarantine(settings.quarantine, most_bytes=settings.quarantine_bytes)


def _webhook(settings: ServeSettings, metrics: Metrics) -> Webhook | None:
    if settings.alarm_webhook is None:
        return None
    return Webhook(settings.alarm_webhook.get_secret_value(), told=metrics.webhook)


def _tell(webhook: Webhook | None, model: str, state: AlarmState) -> None:
    if webhook is not None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        webhook.send(alarm_message(state, model=model, time=now))


Build = Callable[[ServeSettings], Parts]
"""`build`, or what a test puts in its place."""
