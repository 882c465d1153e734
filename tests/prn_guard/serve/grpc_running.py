"""A gRPC server around the tiny guard, in a thread with an event loop of its own."""

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from prn_guard.serve.alarm import AttackAlarm
from prn_guard.serve.bodies import Budget
from prn_guard.serve.engine import Engine
from prn_guard.serve.grpc_call import GrpcRules
from prn_guard.serve.grpc_server import GrpcServer
from prn_guard.serve.metrics import Metrics
from prn_guard.serve.security import TokenCheck
from prn_guard.serve.service import Limits, Service
from prn_guard.serve.watch import Watch

NAME = "tiny"
HOST = "127.0.0.1"


class Running:
    """A server that answers; `call` runs a coroutine on its loop."""

    def __init__(self, loop, service, server, port, budget):
        self.loop, self.service, self.server = loop, service, server
        self.port, self.budget = port, budget
        self.address = f"{HOST}:{port}"

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


@contextlib.contextmanager
def running(
    engine,
    *,
    token=None,
    tls=None,
    start=True,
    max_queue=64,
    max_message_bytes=1 << 20,
    max_bytes=64 << 20,
    max_numbers=1 << 20,
    header_timeout=10.0,
    body_timeout=10.0,
    keep_alive=10.0,
    max_calls=100,
    port=0,
):
    """Serve `engine` (a folder opens one) until the block ends."""
    if not hasattr(engine, "run"):
        engine = Engine(engine, threads=1)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    metrics = Metrics(threshold=engine.manifest.detection.threshold, model=NAME)
    alarm = AttackAlarm(false_positive_rate=0.01, calibration_pictures=500)
    limits = Limits(max_batch=8, max_queue=max_queue, max_delay=0.0, max_timeout=20.0)
    budget = Budget(max_bytes)
    rules = GrpcRules(
        tokens=TokenCheck(token),
        budget=budget,
        max_message_bytes=max_message_bytes,
        max_numbers=max_numbers,
        header_timeout=header_timeout,
        body_timeout=body_timeout,
        keep_alive=keep_alive,
        max_calls=max_calls,
    )

    async def begin():
        watch = Watch(engine.manifest, metrics, alarm)
        service = Service(NAME, engine, metrics=metrics, watch=watch, limits=limits)
        server = GrpcServer(service, rules, tls=tls)
        bound = await server.start(HOST, port)
        if start:
            await service.start()
        return Running(loop, service, server, bound, budget)

    async def end(found):
        if found is not None:
            await found.service.stop(10)
            await found.server.stop(10)
        await loop.shutdown_default_executor()

    found = None
    try:
        found = asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
        yield found
    finally:
        asyncio.run_coroutine_threadsafe(end(found), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Held:
    """An engine whose runs wait until they are let go; `begun` is set by the first."""

    sessions = 1

    def __init__(self, folder):
        self._engine = Engine(folder, threads=1)
        self.manifest, self.extras = self._engine.manifest, self._engine.extras
        self.begun, self.go = threading.Event(), threading.Event()
        self.fails = False

    def warm_up(self, session=0):
        self._engine.warm_up(session)

    def run(self, values, *, session=0, extras=()):
        self.begun.set()
        if not self.go.wait(20):
            raise TimeoutError
        if self.fails:
            raise ZeroDivisionError
        return self._engine.run(values, session=session, extras=extras)


def together(count):
    """Threads for clients."""
    return ThreadPoolExecutor(count)


def until(true, *, seconds=10.0):
    """Wait for what no event tells of."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not true():
        assert time.monotonic() < end
        pause.wait(0.002)
