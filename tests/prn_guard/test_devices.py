"""Devices and settings of a session: what was asked for, or an error."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from prn_guard import session
from prn_guard.errors import ArtifactError, DeviceError, InvalidArgumentError
from prn_guard.session import open_session
from tests.prn_guard.tiny import unknown_operator


@pytest.fixture(autouse=True)
def _libraries_are_loaded_anew():
    """They are loaded once a process, and what was said is kept."""
    session._preload.cache_clear()
    yield
    session._preload.cache_clear()


def test_session_never_moves_to_another_provider(folder):
    _, opened = open_session(folder)
    assert opened.get_providers() == ["CPUExecutionProvider"]
    assert opened._enable_fallback is False


def test_settings_reach_the_session_and_cannot_loosen_it(folder):
    loose = {"session.load_model_format": "ORT", "session.disable_prepacking": "1"}
    _, opened = open_session(folder, threads=1, entries=loose)
    options = opened.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    assert options.get_session_config_entry("session.load_model_format") == "ONNX"


def test_a_session_that_is_not_on_the_gpu_is_an_error(folder, monkeypatch):
    """CUDA may be listed and start for no one, and onnxruntime then says so in its log alone."""
    _, on_cpu = open_session(folder)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: sys.stdout.write("no libcudnn"))
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: on_cpu)
    with pytest.raises(DeviceError, match=r"CUDA did not start\. no libcudnn Install"):
        open_session(folder, "cuda")


def test_threads_do_not_lose_stdout(folder, monkeypatch):
    """What is said is redirected for the whole process: the second may only begin afterwards."""
    before, calls, inside = sys.stdout, [], threading.Event()

    def preload():
        calls.append(sys.stdout)
        inside.set()
        time.sleep(0.3 / len(calls))  # a first that ends after the second
        sys.stdout.write("no libcudnn")

    def start():
        with pytest.raises(DeviceError, match="no libcudnn"):
            open_session(folder, "cuda")
        return True

    _, on_cpu = open_session(folder)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("onnxruntime.preload_dlls", preload)
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: on_cpu)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(start)
        inside.wait(10)
        second = pool.submit(start)
        told = first.result(), second.result()
    after = sys.stdout
    monkeypatch.setattr(sys, "stdout", before)
    assert told == (True, True)
    assert after is before
    assert len(calls) == 1


def test_cuda_that_cannot_be_had_is_an_error(folder):
    if os.path.exists("/dev/nvidia0"):  # noqa: PTH110 - a device node
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceError, match="another device"):
        open_session(folder, "cuda")


def test_build_without_cuda_is_an_error(folder, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="built without CUDA"):
        open_session(folder, "cuda")


def test_malformed_graph_is_not_blamed_on_the_gpu(write_guard, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ArtifactError, match="does not load"):
        open_session(write_guard(model=unknown_operator), "cuda")


@pytest.mark.parametrize("device", ["gpu", "CUDA", "", "cuda:", "cuda:-1", "cuda:x", "cuda:٣", 0])
def test_unknown_device_is_refused(folder, device):
    with pytest.raises(InvalidArgumentError, match="expected 'cpu' or 'cuda'"):
        open_session(folder, device)


@pytest.mark.parametrize(("device", "index"), [("cuda", "0"), ("cuda:0", "0"), ("cuda:12", "12")])
def test_the_gpu_that_was_named_is_the_one(folder, monkeypatch, device, index):
    asked = []

    class Session:
        def __init__(self, *_, providers, **__):
            asked.append(providers)

        def get_providers(self):
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    session.load_graph(b"", device, "graph")
    (((provider, options), fallback),) = asked
    assert (provider, options["device_id"], options["use_tf32"]) == (
        "CUDAExecutionProvider", index, "0",
    )  # fmt: skip
    assert fallback == "CPUExecutionProvider"
