"""`python -m export triton`."""

import json

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from export import cli
from tests.commands import Run, assert_refused, runner
from tests.export.small_artifact import write_small_artifact


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(cli.main, "python -m export", monkeypatch, capsys)


def test_every_option_arrives(run, tmp_path):
    artifact = write_small_artifact(tmp_path / "artifact")
    out, facts = tmp_path / "repository", tmp_path / "facts.json"
    options = (
        "--name my-guard --version 4 --max-batch-size 24 --preferred-batch-sizes 6,12 "
        "--max-queue-delay-us 250 --instances 2 --gpus 0,1 --no-warm-up "
        "--storage-uri s3://bucket/models --triton-release 25.06-py3"
    )
    ended = run("triton", artifact, "--out", out, *options.split(), "--json", facts)
    assert ended.code == 0, ended
    config = text_format.Parse(
        (out / "my-guard" / "config.pbtxt").read_text(), schema.ModelConfig()
    )
    (group,) = config.instance_group
    assert (config.name, config.max_batch_size, len(config.model_warmup)) == ("my-guard", 24, 0)
    assert list(config.dynamic_batching.preferred_batch_size) == [6, 12]
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert (group.kind, group.count, list(group.gpus)) == (group.KIND_GPU, 2, [0, 1])
    service = (out / "inference_service.yaml").read_text()
    assert 'runtimeVersion: "25.06-py3"' in service
    assert 'nvidia.com/gpu: "2"' in service
    record = json.loads(facts.read_text())
    assert record["versions"] == [4]
    assert record["sha256"] in ended.out
    assert record["input"] == {"name": "image", "data_type": "TYPE_UINT8", "dims": [8, 16, 3]}
    assert [output["name"] for output in record["outputs"]] == [
        "logits",
        "flagged",
        "label",
        "score",
    ]
    assert "image: TYPE_UINT8 ['N', 8, 16, 3]" in ended.out


def test_the_cpu_and_defaults(run, tmp_path):
    artifact = write_small_artifact(tmp_path / "artifact")
    ended = run("triton", artifact, "--out", tmp_path / "r", "--device", "cpu")
    assert ended.code == 0, ended
    text = (tmp_path / "r" / "guarded" / "config.pbtxt").read_text()
    assert "KIND_CPU" in text
    assert "model_warmup" in text
    assert "none: no --storage-uri" in ended.out


def test_bad_options_are_refused(run, tmp_path):
    artifact = write_small_artifact(tmp_path / "artifact")
    command = ("triton", artifact, "--out", tmp_path / "r")
    assert_refused(run(*command, "--gpus", "all"), "--gpus is 'all'", "commas")
    assert_refused(run(*command, "--name", "A"), "The name is 'A'", "Kubernetes")
    assert_refused(run(*command, "--device", "tpu"), "'tpu'", "one of 'gpu', 'cpu'")
    assert_refused(run("triton", tmp_path / "none", "--out", tmp_path / "r"), "no folder")
    assert not (tmp_path / "r").exists()
