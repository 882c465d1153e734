"""The batcher with an engine of Python, and events in place of time."""

import asyncio
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from prn_guard.serve.batcher import Batcher
from prn_guard.serve.engine import Outcome
from prn_guard.serve.errors import (
    DeadlineExceededError,
    InferenceFailedError,
    QueueFullError,
    StoppingError,
    TooLargeError,
)
from prn_guard.verdict import Verdict

PATIENCE = 20


class Doubling:
    """Answers each row's number as its label, twice it as its score; `extra` is thrice it."""

    def __init__(self, sessions=1, poison=()):
        self.sessions, self.poison = sessions, set(poison)
        self.runs, self.at_once, self.most_at_once = [], 0, 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.lock = threading.Lock()

    def run(self, values, *, session=0, extras=()):
        with self.lock:
            self.runs.append((session, values.ravel().tolist(), tuple(extras)))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        with self.lock:
            self.at_once -= 1
        if self.poison & set(values.ravel().tolist()):
            raise RuntimeError("poison")
        numbers = values[:, 0]
        verdict = Verdict(
            label=numbers.astype(np.int64),
            logits=np.stack([numbers, -numbers], axis=1).astype(np.float32),
            score=2 * numbers.astype(np.float32),
            flagged=numbers % 2 == 1,
        )
        return Outcome(verdict, dict.fromkeys(extras, 3 * numbers))


def rows(*numbers):
    return np.array(numbers, dtype=np.float32)[:, None]


def labels(outcome):
    return outcome.verdict.label.tolist()


async def entered(engine, count=1):
    for _ in range(count):
        assert await asyncio.to_thread(engine.entered.acquire, timeout=PATIENCE)


def usual(engine, **changes):
    return Batcher(engine, **{"max_batch": 4, "max_queue": 100, "max_delay": 0.0, **changes})


def test_every_request_gets_its_own_rows():
    async def main():
        engine = Doubling(sessions=2)
        batcher = usual(engine, max_batch=7, max_delay=0.001)
        sizes = np.random.default_rng(0).integers(1, 6, 60)
        starts = np.concatenate([[0], sizes.cumsum()])
        requests = [range(start, start + size) for start, size in zip(starts, sizes, strict=False)]
        batcher_room = asyncio.Semaphore(18)

        async def ask(numbers):
            async with batcher_room:
                return await batcher.submit(rows(*numbers), extras=("x",) if numbers[0] % 2 else ())

        outcomes = await asyncio.gather(*(ask(numbers) for numbers in requests))
        await batcher.stop()
        return requests, outcomes, engine

    requests, outcomes, engine = asyncio.run(main())
    for numbers, outcome in zip(requests, outcomes, strict=True):
        assert labels(outcome) == list(numbers)
        assert outcome.verdict.score.tolist() == [2 * number for number in numbers]
        assert outcome.verdict.flagged.tolist() == [number % 2 == 1 for number in numbers]
        wanted = {"x": [3 * number for number in numbers]} if numbers[0] % 2 else {}
        assert {name: values.tolist() for name, values in outcome.extras.items()} == wanted
    sent = sorted(number for _, values, _ in engine.runs for number in values)
    assert sent == [number for numbers in requests for number in numbers]
    assert max(len(values) for _, values, _ in engine.runs) <= 7
    assert len(engine.runs) < len(requests)


def test_what_waits_while_a_session_is_busy_becomes_one_batch():
    async def main():
        engine, told = Doubling(), []
        batcher = usual(engine, on_batch=lambda *facts: told.append(facts))
        engine.gate.clear()
        first = asyncio.create_task(batcher.submit(rows(0)))
        await entered(engine)
        later = [asyncio.create_task(batcher.submit(rows(n))) for n in (1, 2, 3, 4, 5)]
        await asyncio.sleep(0)
        assert batcher.waiting == 5
        engine.gate.set()
        assert [labels(outcome) for outcome in await asyncio.gather(first, *later)] == [
            [n] for n in range(6)
        ]
        assert batcher.waiting == 0
        await batcher.stop()
        return engine, told

    engine, told = asyncio.run(main())
    assert [values for _, values, _ in engine.runs] == [[0], [1, 2, 3, 4], [5]]
    assert [pictures for pictures, _, _ in told] == [1, 4, 1]
    assert all(waited >= 0 and ran > 0 for _, waited, ran in told)


def test_a_full_batch_does_not_wait_and_a_lone_one_waits_its_delay():
    async def main():
        engine = Doubling()
        batcher = usual(engine, max_delay=30.0)
        async with asyncio.timeout(PATIENCE):
            full = await asyncio.gather(*(batcher.submit(rows(n)) for n in range(4)))
        alone = asyncio.create_task(batcher.submit(rows(9)))
        await asyncio.sleep(0.02)
        assert engine.runs == [(0, [0, 1, 2, 3], ())]
        await batcher.stop()  # what waits is answered at once
        return full, await alone

    full, alone = asyncio.run(main())
    assert [labels(outcome) for outcome in full] == [[0], [1], [2], [3]]
    assert labels(alone) == [9]


def test_sessions_run_at_the_same_time():
    async def main():
        engine = Doubling(sessions=3)
        batcher = usual(engine, max_batch=1)
        engine.gate.clear()
        tasks = [asyncio.create_task(batcher.submit(rows(n))) for n in range(4)]
        await entered(engine, 3)
        assert batcher.waiting == 1
        engine.gate.set()
        await asyncio.gather(*tasks)
        await batcher.stop()
        return engine

    engine = asyncio.run(main())
    assert engine.most_at_once == 3
    assert {session for session, _, _ in engine.runs} == {0, 1, 2}


def test_a_request_larger_than_a_batch_is_cut_and_joined():
    async def main():
        engine = Doubling()
        batcher = usual(engine)
        outcome = await batcher.submit(rows(*range(11)), extras=("x",))
        await batcher.stop()
        return engine, outcome

    engine, outcome = asyncio.run(main())
    assert labels(outcome) == list(range(11))
    assert outcome.extras["x"].tolist() == [3 * n for n in range(11)]
    assert [len(values) for _, values, _ in engine.runs] == [4, 4, 3]


def test_the_queue_is_bounded_in_pictures():
    async def main():
        engine = Doubling()
        batcher = usual(engine, max_queue=5)
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(rows(0)))
        await entered(engine)
        waiting = asyncio.create_task(batcher.submit(rows(1, 2, 3)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="3 pictures wait already, of at most 5"):
            await batcher.submit(rows(4, 5, 6))
        with pytest.raises(TooLargeError, match="6 pictures; at most 5"):
            await batcher.submit(rows(*range(6)))
        fits = asyncio.create_task(batcher.submit(rows(7, 8)))
        engine.gate.set()
        outcomes = await asyncio.gather(running, waiting, fits)
        await batcher.stop()
        return [labels(outcome) for outcome in outcomes]

    assert asyncio.run(main()) == [[0], [1, 2, 3], [7, 8]]


def test_a_deadline_that_passes_in_the_queue_frees_its_room():
    async def main():
        engine = Doubling()
        batcher = usual(engine, max_queue=2)
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(rows(0)))
        await entered(engine)
        with pytest.raises(DeadlineExceededError, match=r"0\.01 seconds"):
            await batcher.submit(rows(1, 2), deadline=0.01)
        assert batcher.waiting == 0
        later = asyncio.create_task(batcher.submit(rows(3, 4), deadline=PATIENCE))
        await asyncio.sleep(0)
        engine.gate.set()
        outcomes = await asyncio.gather(running, later)
        await batcher.stop()
        return engine, [labels(outcome) for outcome in outcomes]

    engine, answered = asyncio.run(main())
    assert answered == [[0], [3, 4]]
    assert [values for _, values, _ in engine.runs] == [[0], [3, 4]]


def test_a_deadline_that_passes_in_a_run_harms_no_one_else():
    async def main():
        engine = Doubling()
        batcher = usual(engine, max_delay=0.001)
        engine.gate.clear()
        patient = asyncio.create_task(batcher.submit(rows(1)))
        hasty = asyncio.create_task(batcher.submit(rows(2), deadline=0.05))
        await entered(engine)
        with pytest.raises(DeadlineExceededError):
            await hasty
        engine.gate.set()
        answered = labels(await patient)
        await batcher.stop()
        return answered

    assert asyncio.run(main()) == [1]


def test_who_is_gone_is_not_run():
    async def main():
        engine = Doubling()
        batcher = usual(engine)
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(rows(0)))
        await entered(engine)
        gone = asyncio.create_task(batcher.submit(rows(1, 2)))
        stays = asyncio.create_task(batcher.submit(rows(3)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert batcher.waiting == 1
        engine.gate.set()
        await asyncio.gather(running, stays)
        await batcher.stop()
        return engine

    assert [values for _, values, _ in asyncio.run(main()).runs] == [[0], [3]]


def test_any_number_of_requests_may_be_gone_before_a_batch_is_formed(monkeypatch):
    async def main():
        engine, idle = Doubling(), asyncio.Event()
        batcher = usual(engine, max_delay=0.001)
        take = batcher._take

        def told():
            batch = take()
            if not batch:
                idle.set()
            return batch

        monkeypatch.setattr(batcher, "_take", told)
        for _ in range(2 * sys.getrecursionlimit()):
            idle.clear()
            gone = asyncio.create_task(batcher.submit(rows(1)))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.wait_for(idle.wait(), PATIENCE)
        outcome = await asyncio.wait_for(batcher.submit(rows(2)), PATIENCE)
        await batcher.stop()
        return labels(outcome), engine.runs

    found, runs = asyncio.run(main())
    assert found == [2]
    assert [values for _, values, _ in runs] == [[2]]


def test_a_poisonous_request_fails_alone():
    async def main():
        engine = Doubling(poison=[2])
        batcher = usual(engine)
        engine.gate.clear()
        first = asyncio.create_task(batcher.submit(rows(0)))
        await entered(engine)
        tasks = [asyncio.create_task(batcher.submit(rows(n))) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        engine.gate.set()
        outcomes = await asyncio.gather(first, *tasks, return_exceptions=True)
        again = await batcher.submit(rows(5))
        await batcher.stop()
        return engine, outcomes, again

    engine, (first, one, two, three), again = asyncio.run(main())
    assert [labels(outcome) for outcome in (first, one, three, again)] == [[0], [1], [3], [5]]
    assert isinstance(two, InferenceFailedError)
    assert "poison" not in str(two)
    assert str(two.__cause__) == "poison"
    runs = [values for _, values, _ in engine.runs]
    assert runs == [[0], [1, 2, 3], [1], [2], [3], [5]]


def test_an_engine_that_answers_too_few_rows_is_an_error_not_a_hang():
    class Short(Doubling):
        def run(self, values, **more):
            whole = super().run(values, **more)
            return replace(whole, verdict=whole.verdict.first(1))

    async def main():
        batcher = usual(Short())
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(InferenceFailedError):
                await batcher.submit(rows(1, 2))
            assert labels(await batcher.submit(rows(3))) == [3]
        await batcher.stop()

    asyncio.run(main())


def test_a_callback_that_fails_does_not_end_the_worker():
    async def main():
        failures = [RuntimeError("surprise")]

        def told(*_):
            if failures:
                raise failures.pop()

        batcher = usual(Doubling(), on_batch=told)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(InferenceFailedError):
                await batcher.submit(rows(1))
            assert labels(await batcher.submit(rows(2))) == [2]
        await batcher.stop()

    asyncio.run(main())


def test_stop_answers_what_was_accepted_and_takes_no_more():
    async def main():
        engine = Doubling()
        batcher = usual(engine)
        engine.gate.clear()
        accepted = [asyncio.create_task(batcher.submit(rows(n))) for n in range(9)]
        await entered(engine)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        with pytest.raises(StoppingError):
            await batcher.submit(rows(10))
        assert not stopping.done()
        engine.gate.set()
        outcomes = await asyncio.gather(*accepted)
        await stopping
        return [labels(outcome) for outcome in outcomes]

    assert asyncio.run(main()) == [[n] for n in range(9)]
