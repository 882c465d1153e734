import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from prn_guard import __version__, cli
from prn_guard.guard import Guard
from prn_guard.signing import sign_manifest
from tests.prn_guard.tiny import write_keys


@pytest.fixture
def prn_guard(monkeypatch, capsys):
    """Run the command line as `main` does; gives exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prn-guard", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        text = capsys.readouterr()
        return stopped.value.code or 0, text.out, text.err

    return run


@pytest.fixture
def files(tmp_path, pictures):
    paths = [tmp_path / f"[{index}].png" for index in range(5)]
    for path, picture in zip(paths, pictures, strict=False):
        Image.fromarray(picture).save(path)
    return paths


def test_version_and_help(prn_guard):
    assert prn_guard("--version") == (0, f"prn-guard {__version__}\n", "")
    code, out, _ = prn_guard("--help")
    assert code == 0
    assert "inspect" in out
    assert "predict" in out


def test_names_in_a_graph_do_not_steer_the_terminal(prn_guard, write_guard):
    def change(model):
        model.graph.node[0].name = "\033]0;owned"
        model.graph.node[0].op_type = "Surprise"

    code, _, err = prn_guard("inspect", write_guard(model=change))
    assert code == 2
    assert r"\x1b]0;owned" in err
    assert "\033" not in err


def test_names_in_a_manifest_do_not_steer_the_terminal(prn_guard, write_guard):
    def change(record):
        record["placement"].update(on_cpu=["\033]0;owned"])

    code, out, _ = prn_guard("inspect", write_guard(manifest=change))
    assert code == 0
    assert r"\x1b]0;owned" in out
    assert "\033" not in out


def test_inspect(prn_guard, folder, tmp_path):
    code, out, err = prn_guard("inspect", folder, "--json", tmp_path / "o.json")
    assert (code, err) == (0, "")
    for text in ("10/255", "1.000%", "8 x 8, RGB", "[bold]cat", "guarded.onnx", "yes", "opset"):
        assert text in out
    record = json.loads((tmp_path / "o.json").read_text())
    stored = json.loads((folder / "manifest.json").read_text())
    assert len(stored.pop("manifest_sha256")) == 64
    assert record["manifest"] == {**stored, "resize": None}
    assert record["files_verified"] is True


@pytest.fixture
def public_key(folder, tmp_path):
    """The folder is signed; the key to check it with."""
    private, public = write_keys(tmp_path, Ed25519PrivateKey.generate())
    sign_manifest(folder, private)
    return public


def test_signature_is_checked_on_request(prn_guard, folder, files, public_key, tmp_path):
    record = tmp_path / "o.json"
    code, out, _ = prn_guard("inspect", folder, "--public-key", public_key, "--json", record)
    assert code == 0
    assert "valid" in out
    assert json.loads(record.read_text())["signature_verified"] is True
    assert "not checked" in prn_guard("inspect", folder)[1]
    assert prn_guard("predict", folder, files[0], "--public-key", public_key)[0] == 0
    (folder / "manifest.sig").unlink()
    for command in (["inspect", folder], ["predict", folder, files[0]]):
        code, out, err = prn_guard(*command, "--public-key", public_key)
        assert (code, out) == (2, "")
        assert "manifest.sig is missing" in " ".join(err.split())


def test_predict_equals_the_guard(prn_guard, folder, files, pictures, monkeypatch):
    monkeypatch.setattr(cli, "BATCH_SIZE", 2)
    result = folder / "o.json"
    code, out, err = prn_guard("predict", folder, *files, "--json", result)
    assert (code, err) == (0, "")
    verdict = Guard(folder).classify(pictures[:5])
    record = json.loads(result.read_text())
    assert record["threshold"] == 0.5
    assert record["provider"] == "CPUExecutionProvider"
    rows = record["pictures"]
    assert [row["file"] for row in rows] == [str(path) for path in files]
    assert [row["label"] for row in rows] == verdict.label.tolist()
    assert [row["flagged"] for row in rows] == verdict.flagged.tolist()
    assert [row["score"] for row in rows] == verdict.score.tolist()
    probabilities = [row["probability"] for row in rows]
    assert probabilities == verdict.probabilities.max(axis=1).tolist()
    names = Guard(folder).manifest.class_names
    assert [row["class_name"] for row in rows] == [names[label] for label in verdict.label]
    assert out.count("FLAGGED") == verdict.flagged.sum() > 0
    assert "[3].png" in out


def test_predict_resizes_on_request(prn_guard, folder, tmp_path):
    Image.new("RGB", (20, 30)).save(tmp_path / "large.png")
    code, _, err = prn_guard("predict", folder, tmp_path / "large.png")
    assert code == 2
    assert "--resize" in err
    assert prn_guard("predict", folder, tmp_path / "large.png", "--resize")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect"],
        ["surprise"],
        ["predict", "{folder}"],
        ["predict", "{folder}", "{files}", "--device", "gpu"],
        ["predict", "{folder}", "{folder}/none.png"],
        ["predict", "{folder}", "{folder}/manifest.json"],
        ["inspect", "{folder}/none"],
        ["inspect", "{folder}", "--json", "/dev/null/x.json"],
        ["inspect", "{folder}", "--surprise"],
    ],
)
def test_bad_input_ends_with_2_and_a_message(prn_guard, folder, files, arguments):
    filled = [text.format(folder=folder, files=files[0]) for text in arguments]
    code, _, err = prn_guard(*filled)
    assert code == 2
    assert "Error" in err
    assert "Traceback" not in err


def test_changed_graph_ends_with_2(prn_guard, folder):
    with (folder / "guarded.onnx").open("r+b") as stream:
        stream.write(b"\0")
    code, out, err = prn_guard("inspect", folder)
    assert (code, out) == (2, "")
    assert "has changed since it was exported" in " ".join(err.split())


FOREIGN = ("torch", "sklearn", "scipy", "onnx", "cryptography")


def modules_after(code, *arguments):
    """What a fresh interpreter has imported after running `code`."""
    script = f"import sys\n{code}\nprint(','.join(sys.modules))"
    done = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", script, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(next(csv.reader([done.stdout.splitlines()[-1]])))


def test_running_a_guard_needs_no_training_framework(folder):
    loaded = modules_after(
        "import prn_guard, prn_guard.cli, prn_guard.guard, numpy\n"
        "images = numpy.zeros((2, 8, 8, 3), numpy.uint8)\n"
        "assert len(prn_guard.Guard(sys.argv[1]).classify(images)) == 2",
        folder,
    )
    assert "onnxruntime" in loaded
    assert not loaded & {*FOREIGN, "prn_guard.nn", "training", "export"}


def test_importing_the_command_line_is_light():
    loaded = modules_after("import prn_guard.cli")
    assert not loaded & {*FOREIGN, "onnxruntime", "numpy", "pydantic", "PIL", "rich"}


def test_importing_the_session_leaves_the_runtime_out():
    assert "onnxruntime" not in modules_after("import prn_guard.session, prn_guard.guard")


def test_package_gives_its_two_names_only():
    import prn_guard

    assert isinstance(prn_guard.Verdict, type)
    with pytest.raises(AttributeError, match="surprise"):
        prn_guard.surprise  # noqa: B018 - the access is what is tested
    assert np.array_equal(sorted(prn_guard.__all__), ["Guard", "Verdict", "__version__"])
