"""Damage artifacts at random and see that each is refused or served correctly.

    .venv/bin/python -m benchmarks.fuzz_artifacts --cases 1000

Writes `benchmarks/results/fuzz.json`: what became of the damaged folders, by the way they were
delivered, the file and the kind of damage. Ends with 1 where one crashed, hung, escaped as another
exception, or was served though it must not be.
"""

import platform
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import onnx
import onnxruntime
import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.fuzz_worker import Outcome, Pictures, worker
from benchmarks.mutations import Case, Files, Way, draw_case
from benchmarks.publishing import commit
from prn_guard import __version__, console
from prn_guard.contract import GRAPH_FILE, MANIFEST_FILE, SIGNATURE_FILE
from prn_guard.files import write_json
from prn_guard.signing import sign_manifest
from tests.prn_guard.tiny import CHANNELS, SIZE, tiny_manifest, tiny_model, tiny_spec, write_folder

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "fuzz.json"
SECONDS: Final = 20.0
ORDER: Final[tuple[Way, ...]] = ("as is", "resealed", "signed", "resealed")
"""Half of all cases get past the digests, where most can go wrong."""
GOOD: Final = ("refused", "served", "served as the original")


def main(
    cases: Annotated[int, typer.Option(min=1, help="Damaged folders to try.")] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="The result file.")] = RESULT,
) -> None:
    """Damage, load, count, publish."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prn-guard-fuzz-") as folder:
        rows = fuzz(Path(folder), cases=cases, seed=seed)
    result = summarise(rows)
    versions = {
        "prn-guard": __version__,
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    write_json(
        out,
        {
            "commit": commit(),
            "cases": cases,
            "seed": seed,
            "seconds": round(time.monotonic() - begin, 1),
            "limit_seconds": SECONDS,
            "versions": versions,
            **result,
        },
    )
    totals = ", ".join(f"{count} {outcome}" for outcome, count in result["outcomes"].items())
    console.say(f"{cases} damaged folders: {totals}. Written: {out}.")
    if result["unexpected"]:
        raise typer.Exit(1)


def fuzz(place: Path, *, cases: int, seed: int) -> list[tuple[Case, Outcome]]:
    """Try `cases` damaged copies of the tiny guard in the empty folder `place`.

    Returns:
        Every case and what became of it; `served` becomes `served as the original` where it
        answers every picture with the same bits, and `served wrongly` where that was required and
        is not so, or where no valid signature can have been there.
    """
    original, public_key = _original(place)
    pictures = _pictures(seed)
    rng = np.random.default_rng(seed)
    rows = []
    with worker(pictures, seconds=SECONDS) as loader:
        intact = place / "intact"
        right = loader.ask(intact, public_key)
        if right["outcome"] != "served":
            raise RuntimeError(f"The undamaged guard is not served: {right}")
        damaged = place / "damaged"
        damaged.mkdir()
        for number in range(cases):
            case = draw_case(original, rng, ORDER[number % len(ORDER)])
            for name, content in case.files.items():
                (damaged / name).write_bytes(content)
            outcome = loader.ask(damaged, public_key if case.way == "signed" else None)
            rows.append((case, _judge(case, outcome, right, original)))
    return rows


def summarise(rows: list[tuple[Case, Outcome]]) -> dict[str, Any]:
    """Counts of outcomes, and the cases that must not be."""
    counts = Counter((case.way, case.target, case.kind, row["outcome"]) for case, row in rows)
    return {
        "outcomes": dict(Counter(row["outcome"] for _, row in rows).most_common()),
        "refused_by_onnxruntime": sum("does not load" in row.get("message", "") for _, row in rows),
        "errors": dict(Counter(row["error"] for _, row in rows if "error" in row).most_common()),
        "counts": [
            {"way": way, "file": target, "damage": kind, "outcome": outcome, "cases": count}
            for (way, target, kind, outcome), count in sorted(counts.items())
        ],
        "unexpected": [
            {
                "number": number,
                "way": case.way,
                "file": case.target,
                "damage": case.kind,
                "outcome": row["outcome"],
                "message": row.get("message", ""),
            }
            for number, (case, row) in enumerate(rows)
            if row["outcome"] not in GOOD
        ],
    }


def _judge(case: Case, outcome: Outcome, right: Outcome, original: Files) -> Outcome:
    if outcome["outcome"] != "served":
        return outcome
    same = all(
        np.array_equal(found, wanted)
        for found, wanted in zip(outcome["answer"], right["answer"], strict=True)
    )
    signed = all(case.files[name] == original[name] for name in (MANIFEST_FILE, SIGNATURE_FILE))
    if case.way == "signed" and not signed:
        return {"outcome": "served wrongly", "message": "without a valid signature"}
    if case.way != "resealed" and not same:
        return {"outcome": "served wrongly", "message": "other answers than the original's"}
    return {"outcome": "served as the original" if same else "served"}


def _original(place: Path) -> tuple[Files, Path]:
    """Write the undamaged guard, signed; its files by name, and the public key."""
    key = Ed25519PrivateKey.generate()
    private, public = place / "private.pem", place / "public.pem"
    pem = serialization.Encoding.PEM
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    graph = tiny_model().SerializeToString()
    intact = place / "intact"
    write_folder(intact, graph, tiny_manifest(tiny_spec(), graph))
    sign_manifest(intact, private)
    names = (GRAPH_FILE, MANIFEST_FILE, SIGNATURE_FILE)
    return {name: (intact / name).read_bytes() for name in names}, public


def _pictures(seed: int) -> Pictures:
    rng = np.random.default_rng(seed + 1)
    return rng.integers(0, 256, (12, SIZE, SIZE, CHANNELS)).astype(np.uint8)


if __name__ == "__main__":
    typer.run(main)
