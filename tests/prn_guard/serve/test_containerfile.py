"""The container file, read: who runs the server there, and that what it names is there."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from prn_guard.errors import InvalidArgumentError
from prn_guard.serve.settings import ServeSettings, read_settings

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions():
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


def arguments(word):
    return [rest for found, rest in instructions() if found == word]


def environment():
    return dict(pair.split("=", 1) for rest in arguments("ENV") for pair in rest.split())


def test_the_server_does_not_run_as_root():
    words = [word for word, _ in instructions()]
    (user,) = arguments("USER")
    owner, _, group = user.partition(":")
    assert int(owner) > 0
    assert int(group) > 0
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert not {"RUN", "COPY", "ADD"} & set(words[words.index("USER") :])


def test_it_starts_the_command_and_holds_no_secret():
    assert [json.loads(rest) for rest in arguments("ENTRYPOINT")] == [["prn-guard", "serve"]]
    assert "prn-guard" in PROJECT["scripts"]
    fields = ServeSettings.model_fields
    names = {name.removeprefix("PRN_GUARD_").lower() for name in environment()}
    assert names <= set(fields) - {"token", "alarm_webhook"}
    exposed = [int(port) for rest in arguments("EXPOSE") for port in rest.split()]
    assert exposed == [fields["port"].default, fields["grpc_port"].default]


def test_without_a_token_it_does_not_start(monkeypatch):
    for name, text in environment().items():
        monkeypatch.setenv(name, text)
    with pytest.raises(InvalidArgumentError, match="no bearer token"):
        read_settings({})
    monkeypatch.setenv("PRN_GUARD_TOKEN", "x" * 16)
    assert read_settings({}).folder == Path("/guarded")


def test_what_it_copies_is_enough_to_build():
    copied = {name for rest in arguments("COPY") for name in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", "prn_guard", PROJECT["readme"], *PROJECT["license-files"]} <= copied
    (extras,) = arguments("ARG")
    offered = set(PROJECT["optional-dependencies"])
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= offered
    assert re.fullmatch(r"docker\.io/library/python:3\.1[123]-slim", *arguments("FROM"))
