"""What goes wrong behind the request: the engine, the queue, the clock; the others are answered."""

import threading
import time

from tests.prn_guard.serve.raw_http import INFER, PICTURE, head, works
from tests.prn_guard.serve.running import PATIENCE, HeldEngine, infer_body, serving


def test_a_poisonous_request_fails_alone_and_says_nothing_of_the_inside(served_folder):
    engine = HeldEngine(served_folder)
    engine.poison = 66
    poison = PICTURE.copy()
    poison[0, 0, 0, 0] = 66
    with serving(served_folder, engine) as running:
        engine.let_go.clear()
        answers = {}

        def ask(key, pictures):
            answers[key] = running.ask("POST", INFER, infer_body(pictures))

        asked = {"first": PICTURE, "poison": poison, "good": PICTURE}
        threads = [threading.Thread(target=ask, args=item) for item in asked.items()]
        threads[0].start()
        assert engine.entered.acquire(timeout=PATIENCE)
        for thread in threads[1:]:
            thread.start()
        wait_for(running, lambda state: state["waiting"] == 2)
        engine.let_go.set()
        for thread in threads:
            thread.join()
        assert {key: answer.status for key, answer in answers.items()} == {
            "first": 200, "poison": 500, "good": 200,
        }  # fmt: skip
        assert answers["good"].json == answers["first"].json
        assert "secrets" not in answers["poison"].json["error"]
        works(running)
        metrics = running.ask("GET", "/metrics").body.decode()
        assert 'prn_guard_requests_total{outcome="failed",protocol="rest"} 1.0' in metrics


def wait_for(running, reached):
    ends = time.monotonic() + PATIENCE
    while not reached(running.ask("GET", "/v1/state").json):
        assert time.monotonic() < ends


def test_queue_full_and_deadline(served_folder):
    engine = HeldEngine(served_folder)
    with serving(served_folder, engine, max_queue=2) as running:
        engine.let_go.clear()
        held = []
        threads = [
            threading.Thread(
                target=lambda: held.append(running.ask("POST", INFER, infer_body(PICTURE)))
            )
            for _ in range(3)
        ]
        threads[0].start()
        assert engine.entered.acquire(timeout=PATIENCE)
        for thread in threads[1:]:
            thread.start()
        wait_for(running, lambda state: state["waiting"] == 2)
        full = running.ask("POST", INFER, infer_body(PICTURE))
        assert (full.status, full.headers["retry-after"]) == (503, "1")
        engine.let_go.set()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in held] == [200] * 3

        engine.let_go.clear()
        late = running.ask("POST", INFER, infer_body(PICTURE), x_request_timeout_ms="20")
        assert late.status == 504
        body = infer_body(PICTURE, parameters={"timeout": 20_000})
        assert running.ask("POST", INFER, body).status == 504
        engine.let_go.set()
        works(running)


def test_the_clock_may_jump(served_folder, monkeypatch):
    engine = HeldEngine(served_folder)
    with serving(served_folder, engine) as running:
        engine.let_go.clear()
        held = []
        thread = threading.Thread(
            target=lambda: held.append(running.ask("POST", INFER, infer_body(PICTURE)))
        )
        thread.start()
        assert engine.entered.acquire(timeout=PATIENCE)
        now = time.time()
        for jump in (86_400.0, -86_400.0):
            monkeypatch.setattr("time.time", lambda jump=jump: now + jump)
            assert running.ask("GET", "/v2/health/ready").status == 200
        engine.let_go.set()
        thread.join()
        assert held[0].status == 200
        works(running)


def test_who_goes_away_while_waiting_is_not_run(served_folder):
    engine = HeldEngine(served_folder)
    with serving(served_folder, engine) as running:
        engine.let_go.clear()
        thread = threading.Thread(target=works, args=(running,))
        thread.start()
        assert engine.entered.acquire(timeout=PATIENCE)
        body = infer_body(PICTURE)
        with running.connect() as connection:
            connection.sendall(head(Content_Length=str(len(body))) + body)
            wait_for(running, lambda state: state["waiting"] == 1)
        wait_for(running, lambda state: state["waiting"] == 0)
        engine.let_go.set()
        thread.join()
        assert engine.batches == [1]
