"""The command: its flags are the settings, it starts at once, and it says what it needs."""

import inspect
import subprocess
import sys
import types
from typing import get_type_hints

import pytest

from prn_guard import cli, serve_command
from prn_guard.serve import run as run_module
from prn_guard.serve.settings import ServeSettings


@pytest.fixture
def prn_guard(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prn-guard", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        text = capsys.readouterr()
        return stopped.value.code or 0, text.out, text.err

    return run


def test_every_setting_has_a_flag_but_those_that_may_hold_a_secret():
    flags = set(inspect.signature(serve_command.serve).parameters)
    assert flags - {"config"} == set(ServeSettings.model_fields) - {"token", "alarm_webhook"}


def test_help_states_the_defaults(prn_guard):
    code, out, _ = prn_guard("serve", "--help")
    assert code == 0
    assert "--max-queue" in out
    hints = get_type_hints(serve_command.serve, include_extras=True)
    helps = {name: hint.__metadata__[0].help for name, hint in hints.items() if name != "return"}
    numbers = {
        name: field.default
        for name, field in ServeSettings.model_fields.items()
        if isinstance(field.default, int | float | str) and not isinstance(field.default, bool)
    }
    for name, default in numbers.items():
        text = helps[name]
        words = text.replace(" million", "000000").replace(";", " ").rstrip(".").split()
        if name.endswith("_bytes"):
            assert f"{default // 2**20} MiB" in text
        elif isinstance(default, str):
            assert default in text
        else:
            assert any(word[:1].isdigit() and float(word) == default for word in words), text


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from prn_guard import cli, serve_command\n"
        "heavy = {'numpy', 'pydantic', 'onnxruntime', 'fastapi', 'uvicorn', 'grpc', 'starlette'}\n"
        "print(sorted(heavy & set(sys.modules)), 'prn_guard.serve' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "[] False\n"


def test_flags_become_settings(prn_guard, monkeypatch, folder, tmp_path):
    asked = []
    monkeypatch.setattr(run_module, "run", lambda settings: asked.append(settings) or True)
    monkeypatch.setattr("prn_guard.serve.logs.configure", lambda _level: None)
    config = tmp_path / "c.toml"
    config.write_text("max_queue = 7\nport = 1")
    code, _, err = prn_guard(
        "serve", folder, "--config", config, "--port", 0, "--no-grpc", "--devices", "cpu,cpu"
    )
    assert (code, err) == (0, "")
    (found,) = asked
    assert (found.folder, found.port, found.grpc, found.max_queue) == (folder, 0, False, 7)
    assert found.devices == ("cpu", "cpu")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "192.0.2.1"], "--insecure"),
        (["--max-batch", "0"], "max_batch"),
        (["--devices", "cuda:x"], "devices"),
        (["--token-file", "none"], "none is missing"),
    ],
)
def test_bad_flags_are_exit_code_2(prn_guard, monkeypatch, folder, arguments, said):
    monkeypatch.setattr("prn_guard.serve.logs.configure", lambda _level: None)
    code, _, err = prn_guard("serve", folder, "--port", 0, "--no-grpc", *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_a_missing_extra_is_named(prn_guard, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "prn_guard.serve.run", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "prn_guard.serve.run")
    code, _, err = prn_guard("serve", folder)
    assert code == 2
    assert "prn-guard[server]" in err


def test_engine_ray_runs_its_own_adapter(prn_guard, monkeypatch, folder):
    asked = []
    adapter = types.ModuleType("prn_guard.serve.ray_serve")
    adapter.run = lambda settings: asked.append(settings.engine) or True
    monkeypatch.setattr("prn_guard.serve.logs.configure", lambda _level: None)
    monkeypatch.setitem(sys.modules, adapter.__name__, adapter)
    assert prn_guard("serve", folder, "--engine", "ray")[0] == 0
    assert asked == ["ray"]
    monkeypatch.setitem(sys.modules, adapter.__name__, None)
    code, _, err = prn_guard("serve", folder, "--engine", "ray")
    assert code == 2
    assert "prn-guard[ray]" in err
