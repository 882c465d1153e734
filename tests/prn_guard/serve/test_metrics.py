"""What is rendered, read back by the client library's own parser, is what happened."""

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from prn_guard.serve.alarm import AttackAlarm
from prn_guard.serve.metrics import CONTENT_TYPE, Metrics


@pytest.fixture
def metrics():
    return Metrics(threshold=0.1, model="guarded")


def read(metrics):
    """Every sample by its name and its labels."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_protocol_and_outcome(metrics):
    for seconds in (0.002, 0.2, 40.0):
        metrics.request("grpc", "ok", seconds)
    metrics.request("rest", "queue_full", 0.001)
    found = read(metrics)
    assert found["prn_guard_requests_total", "grpc", "ok"] == 3
    assert found["prn_guard_requests_total", "queue_full", "rest"] == 1
    assert found["prn_guard_request_seconds_bucket", "0.0025", "grpc"] == 1
    assert found["prn_guard_request_seconds_bucket", "30.0", "grpc"] == 2
    assert found["prn_guard_request_seconds_bucket", "+Inf", "grpc"] == 3
    assert found["prn_guard_request_seconds_sum", "grpc"] == 40.202


def test_stages_batches_and_the_queue_are_shown(metrics):
    metrics.stage("run", 0.004)
    metrics.batch(32)
    metrics.batch(33)
    metrics.queue(7)
    metrics.queue(5)
    found = read(metrics)
    assert found["prn_guard_stage_seconds_count", "run"] == 1
    assert found["prn_guard_stage_seconds_count", "decode"] == 0
    assert found["prn_guard_batch_pictures_bucket", "32.0"] == 1
    assert found["prn_guard_batch_pictures_bucket", "64.0"] == 2
    assert found["prn_guard_queue_pictures",] == 5


def test_scores_up_to_the_threshold_are_the_unflagged_ones(metrics):
    threshold = np.float32(0.1)  # 1.5e-9 above the 0.1 that a manifest holds
    steps = np.float32([-20, -1, -1e-8, 0, 1e-8, 0.02, 50])
    scores = np.concatenate([threshold + steps, [np.nextafter(threshold, np.float32(1))]])
    flags = scores > threshold
    metrics.flagged(scores, flags)
    found = read(metrics)
    assert found["prn_guard_pictures_total", "true"] == flags.sum()
    assert found["prn_guard_pictures_total", "false"] == (~flags).sum()
    assert found["prn_guard_score_margin_bucket", "0.0"] == (~flags).sum()
    assert found["prn_guard_score_margin_bucket", "-10.0"] == 1
    assert found["prn_guard_score_margin_bucket", "10.0"] == len(scores) - 1
    assert found["prn_guard_score_margin_bucket", "+Inf"] == len(scores)


def test_the_alarm_is_shown_and_its_rises_counted(metrics):
    alarm = AttackAlarm(false_positive_rate=0.01, calibration_pictures=500)
    metrics.alarm(alarm.state)
    found = read(metrics)
    assert found["prn_guard_attack_alarm",] == found["prn_guard_attack_alarms_total",] == 0
    for _ in range(2):
        alarm.observe([True] * 200)
        for _ in range(3):
            metrics.alarm(alarm.state)
        found = read(metrics)
        assert found["prn_guard_attack_alarm",] == 1
        alarm.acknowledge()
    state = alarm.state
    metrics.alarm(state)
    found = read(metrics)
    assert found["prn_guard_attack_alarm",] == 0
    assert found["prn_guard_attack_alarms_total",] == 2
    assert found["prn_guard_flagged_share",] == 1.0
    assert found["prn_guard_clean_share",] == state.clean_share
    assert found["prn_guard_attack_alarm_threshold",] == state.threshold


def test_webhooks_and_quarantined_pictures_are_counted(metrics):
    metrics.webhook("delivered")
    metrics.webhook("failed")
    metrics.webhook("failed")
    metrics.quarantined(kept=True)
    metrics.quarantined(kept=False)
    found = read(metrics)
    assert found["prn_guard_webhooks_total", "failed"] == 2
    assert found["prn_guard_quarantined_total", "true"] == 1
    assert found["prn_guard_quarantined_total", "false"] == 1


def test_two_servers_in_one_process_do_not_count_for_each_other(metrics):
    other = Metrics(threshold=0.5, model="other")
    metrics.batch(1)
    assert read(other)["prn_guard_batch_pictures_count",] == 0
    assert any(
        name == "prn_guard_build_info" and "other" in labels for name, *labels in read(other)
    )
    assert "text/plain" in CONTENT_TYPE
