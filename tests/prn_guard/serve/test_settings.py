"""Settings out of flags, environment, file and defaults; what does not fit; what is printed."""

import json
import os

import pytest

from prn_guard.errors import ArtifactError, InvalidArgumentError
from prn_guard.serve.settings import ServeSettings, read_settings

PHRASE = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def _no_settings_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith("PRN_GUARD_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "serve.toml"
        path.write_text(text)
        return path

    return write


def test_the_first_source_that_has_a_setting_wins(monkeypatch, write):
    config = write('folder = "file"\nport = 1\nmax_queue = 2\nmax_batch = 3\ndevices = ["cpu"]')
    monkeypatch.setenv("PRN_GUARD_PORT", "11")
    monkeypatch.setenv("PRN_GUARD_MAX_QUEUE", "12")
    monkeypatch.setenv("PRN_GUARD_DEVICES", "cuda:0, cuda:1")
    monkeypatch.setenv("PRN_GUARD_GRPC", "false")
    monkeypatch.setenv("PRN_GUARD_MAX_TIMEOUT", "")
    found = read_settings({"port": 21, "max_queue": None}, config)
    assert (found.port, found.max_queue, found.max_batch) == (21, 12, 3)
    assert found.devices == ("cuda:0", "cuda:1")
    assert (found.grpc, found.max_timeout, str(found.folder)) == (False, 30.0, "file")


@pytest.mark.parametrize("devices", ["cpu", "cuda", "cuda:3,cuda:3", ("cpu", "cuda:12")])
def test_devices(devices):
    expected = tuple(devices.split(",")) if isinstance(devices, str) else devices
    assert read_settings({"folder": "x", "devices": devices}).devices == expected


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({}, "folder"),
        ({"folder": "x", "port": 65536}, "port"),
        ({"folder": "x", "port": "http"}, "port"),
        ({"folder": "x", "devices": "tpu"}, "devices"),
        ({"folder": "x", "devices": ""}, "devices"),
        ({"folder": "x", "max_batch": 0}, "max_batch"),
        ({"folder": "x", "max_delay_ms": float("nan")}, "max_delay_ms"),
        ({"folder": "x", "max_timeout": float("inf")}, "max_timeout"),
        ({"folder": "x", "model_name": "a/b"}, "model_name"),
        ({"folder": "x", "token": "short"}, "token must be at least 16"),
        ({"folder": "x", "token": "x" * 20 + " "}, "without spaces"),
        ({"folder": "x", "token": PHRASE, "token_file": "f"}, "both given"),
        ({"folder": "x", "tls_cert": "c"}, "go together"),
        ({"folder": "x", "max_body_bytes": 2**21, "max_buffered_bytes": 2**20}, "max_buffered"),
        ({"folder": "x", "surprise": 1}, "surprise: there is no such setting"),
        ({"folder": "x", "engine": "other"}, "engine"),
    ],
)
def test_what_does_not_fit_is_named(flags, named):
    with pytest.raises(InvalidArgumentError) as refused:
        read_settings(flags)
    assert named in str(refused.value)


def test_refusals_never_repeat_a_secret(monkeypatch, write):
    monkeypatch.setenv("PRN_GUARD_TOKEN", "hunter2")
    with pytest.raises(InvalidArgumentError) as refused:
        read_settings({"folder": "x", "port": "hunter3"})
    assert "hunter" not in str(refused.value)
    with pytest.raises(InvalidArgumentError, match="token_file") as refused:
        read_settings({}, write('folder = "x"\ntoken = "hunter2-hunter2-hunter2"'))
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("text", ["port = ", "[a", 'x = "\\q"', "port = 1\nport = 2"])
def test_files_that_are_no_toml(write, text):
    with pytest.raises(InvalidArgumentError, match="cannot be read as TOML"):
        read_settings({"folder": "x"}, write(text))


def test_names_in_a_file_that_are_no_settings(write, tmp_path):
    with pytest.raises(InvalidArgumentError, match="prot: there is no such setting"):
        read_settings({"folder": "x"}, write("prot = 80"))
    with pytest.raises(ArtifactError, match="is missing"):
        read_settings({"folder": "x"}, tmp_path / "none.toml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_no_token(host):
    assert read_settings({"folder": "x", "host": host}).loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "a.example"])  # noqa: S104
def test_beyond_loopback_a_token_or_an_explicit_word_is_needed(host):
    with pytest.raises(InvalidArgumentError, match="--token-file or PRN_GUARD_TOKEN"):
        read_settings({"folder": "x", "host": host})
    for allowed in ({"token": PHRASE}, {"token_file": "t"}, {"insecure": True}):
        assert not read_settings({"folder": "x", "host": host, **allowed}).loopback


def test_the_token_comes_from_environment_or_file(monkeypatch, tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{PHRASE}\n")
    assert read_settings({"folder": "x", "token_file": path}).secret() == PHRASE
    monkeypatch.setenv("PRN_GUARD_TOKEN", PHRASE)
    assert read_settings({"folder": "x"}).secret() == PHRASE
    monkeypatch.delenv("PRN_GUARD_TOKEN")
    assert read_settings({"folder": "x"}).secret() is None


@pytest.mark.parametrize("content", [b"", b"short\n", b"two words of which none", b"\xff" * 30])
def test_token_files_that_hold_none(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(InvalidArgumentError, match="holds no bearer token") as refused:
        read_settings({"folder": "x", "token_file": path}).secret()
    assert "short" not in str(refused.value)


def test_what_is_printed_is_json_and_holds_no_secret():
    hook = "https://hooks.example/services/hunter2"
    found = read_settings({"folder": "x", "token": PHRASE, "alarm_webhook": hook, "threads": 2})
    text = json.dumps(found.printed()) + repr(found) + str(found)
    assert PHRASE not in text
    assert "hunter2" not in text
    printed = found.printed()
    assert set(printed) == set(ServeSettings.model_fields)
    assert (printed["token"], printed["alarm_webhook"], printed["threads"]) == ("set", "set", 2)
    assert read_settings({"folder": "x"}).printed()["token"] is None


def test_the_model_is_called_after_its_folder(tmp_path):
    assert read_settings({"folder": tmp_path / "cats"}).name == "cats"
    assert read_settings({"folder": tmp_path, "model_name": "dogs"}).name == "dogs"
