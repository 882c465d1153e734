import sys

import pytest
import typer

from prn_guard import console
from prn_guard.errors import DataError, InvalidArgumentError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10/255", 10 / 255),
        (" 10 / 255 ", 10 / 255),
        ("0.04", 0.04),
        ("1", 1.0),
        ("1e-3", 1e-3),
        ("5.1/255", 0.02),
    ],
)
def test_epsilon_is_read(text, value):
    assert console.parse_epsilon(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "must be above 0"),
        ("0/255", "must be above 0"),
        ("-0.1", "must be above 0"),
        ("1.5", "above 1"),
        ("10", r"Did you mean 10/255\?"),
        ("nan", "no usable number"),
        ("inf", "no usable number"),
        ("abc", "no usable number"),
        ("", "no usable number"),
        ("1/0", "no usable number"),
        ("1/", "no usable number"),
        ("1/2/3", "no usable number"),
    ],
)
def test_epsilon_outside_its_range_is_refused(text, said):
    with pytest.raises(InvalidArgumentError, match=said):
        console.parse_epsilon(text)


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("[bold] no"), 2), (KeyboardInterrupt(), 130), (None, 0)]
)
def test_run_turns_errors_into_exit_codes(monkeypatch, capsys, error, code):
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(SystemExit) as stopped:
        console.run(app)
    assert (stopped.value.code or 0) == code
    err = capsys.readouterr().err
    assert ("Error: [bold] no" in err) == (code == 2)
    assert "Traceback" not in err


def test_other_errors_escape(monkeypatch):
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(ZeroDivisionError):
        console.run(app)


def test_table_and_line_print_brackets_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    console.print_table("Title", ("a", "b"), [("[red]x", "1")], note="a note")
    console.say("[red]y")
    out = capsys.readouterr().out
    assert "[red]x" in out
    assert "[red]y" in out
    assert "a note" in out


def test_nothing_steers_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    owned = "\033]0;owned\u202e\x9b"
    console.print_table(owned, (owned, f"b{owned}"), [(owned, "a\nb\rc")], note=owned)
    console.say(f"{owned}\nsecond line")
    out = capsys.readouterr().out
    assert not {"\033", "\u202e", "\x9b", "\r"} & set(out)
    assert out.count(r"\x1b]0;owned\u202e\x9b") == 6
    assert r"a\nb\rc" in out
    assert out.endswith("\nsecond line\n")
    assert console.printable("Ä b") == "Ä b"


def test_an_error_does_not_steer_the_terminal(capsys, monkeypatch):
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise DataError("node \033]0;owned\nis odd")

    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(SystemExit):
        console.run(app)
    assert capsys.readouterr().err == "Error: node \\x1b]0;owned\nis odd\n"


def test_result_is_written_only_where_asked(tmp_path):
    console.write_result(None, {"a": 1})
    console.write_result(tmp_path / "o.json", {"a": 1})
    assert (tmp_path / "o.json").read_text() == '{\n  "a": 1\n}\n'
