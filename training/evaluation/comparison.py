"""`compare`: networks of one architecture beside each other, under universal attacks above all.

What Co, Rego, Lupu, "Jacobian Regularization for Mitigating Universal Adversarial Perturbations",
show of a network in Table 1 and figures 1 to 4; rho_adv and Jacobian norms of Jakubovitz and Giryes
2018; and the front of accuracy against epsilon_uni of Mummadi, Brox, Metzen 2019, figure 3. Each
part of each network is written as soon as it is measured, of a curve each point; an interrupted
comparison goes on from there, and a network, an epsilon or a part that is added later costs no
more than itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, final, get_args

from prn_guard.errors import InvalidArgumentError
from prn_guard.version import __version__
from training.attacks.fooling import Classifier, fooling_rate, predict
from training.attacks.norms import Norm, check_ball
from training.datasets import Pictures, digest_of
from training.evaluation.comparison_figures import write_charts
from training.evaluation.jacobian_geometry import balanced, jacobian_geometry
from training.evaluation.metrics import proportion
from training.evaluation.result_file import ResultFile, earlier_results
from training.evaluation.robustness import rho_adv
from training.evaluation.universal_curves import (
    BATCH,
    STEPS,
    evasion_over_epsilon,
    success_over_targets,
)
from training.evaluation.universal_robustness import PROBES, RATE
from training.evaluation.universal_search import search_universal_robustness
from training.progress import tracked
from training.resuming import check_same_request
from training.setting import hardware, versions

Part = Literal["accuracy", "jacobian", "rho-adv", "evasion", "targeted", "universal-robustness"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
"""In the order in which they are measured: what is quick comes first."""
RESULTS: Final = "comparison.json"
PICTURES: Final = 1000
"""As many as the source takes for similarities, section 4.3."""


@final
@dataclass(frozen=True, kw_only=True)
class Network:
    """One of the networks.

    Args:
        name: what tables and charts call it.
        classifier: maps `(B, C, H, W)` in [0, 1] to logits, on the device of the pictures.
        identity: what tells it from others, as the digest of its weights.
    """

    name: str
    classifier: Classifier
    identity: str


def compare(
    networks: Sequence[Network],
    crafting: Pictures,
    judging: Pictures,
    out: Path,
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
    epsilons: Sequence[float] = (),
    rate: float = RATE,
    parts: Sequence[str] = PARTS,
    pictures: int = PICTURES,
    steps: int = STEPS,
    universal_steps: int | None = None,
    probes: int = PROBES,
    restart: bool = False,
) -> dict[str, Any]:
    """Measure `parts` of each network; write figures and charts to the folder `out`.

    Args:
        networks: of different names.
        crafting: what universal attacks see.
        judging: other pictures, which everything is measured on.
        out: folder for `comparison.json` and the charts.
        norm: of the ball.
        epsilon: the radius that tables show.
        seed: of every random choice.
        epsilons: other radii of the curves.
        rate: the misclassification rate d of epsilon_uni(d).
        parts: those of `PARTS` that are measured; what an earlier run measured stays.
        pictures: so many of `judging`, as evenly over the classes as they allow, for Jacobians and
            rho_adv.
        steps: of each attack of the curves.
        universal_steps: of each attack of the search of epsilon_uni; None takes its default.
        probes: radii that this search tries.
        restart: throw away what an earlier run left.

    Returns:
        What is known of `networks`, in their order.

    Raises:
        InvalidArgumentError: a ball or names that make no sense, an unknown part, or `out` holds
            another comparison.
        ArtifactError: `comparison.json` exists and is no such file.
        DataError: the Jacobians of so many pictures take too much memory.
    """
    radii = sorted({epsilon, *epsilons})
    _check(networks, radii, norm, parts, judging)
    request = {
        "norm": norm,
        "crafting pictures": digest_of(crafting),
        "judging pictures": digest_of(judging),
        "pictures for Jacobians and rho_adv": pictures,
        "attack": f"sign-pgd, {steps} steps of {BATCH} pictures",
        "rate": rate,
        "universal steps": universal_steps,
        "probes": probes,
        "seed": seed,
        "prn-guard": __version__,
    }
    path = out / RESULTS
    _make_room(path, request, networks, restart=restart)
    results = ResultFile(path, request)
    results.state("epsilon", epsilon)
    results.state("setting", _setting(judging))
    plan = _Plan(
        crafting=crafting,
        judging=judging,
        some=balanced(judging, pictures, seed=seed),
        search=_search_of(path),
        request=request,
        norm=norm,
        rate=rate,
        steps=steps,
        universal_steps=universal_steps,
        probes=probes,
        seed=seed,
    )
    for network in networks:
        section = ("networks", network.name)
        results.state("identity", network.identity, within=section)
        for part in (one for one in PARTS if one in parts):
            if part in MEASURES:
                results.part(part, partial(MEASURES[part], network, plan), within=section)
            for radius in radii if part in CURVES else ():
                point = partial(CURVES[part], network, plan, radius)
                results.part(repr(radius), point, within=(*section, part))
    measured = results.content["networks"]
    shown = results.content | {"networks": {one.name: measured[one.name] for one in networks}}
    write_charts(shown, out)
    return shown


@final
@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What parts are measured on, and how."""

    crafting: Pictures
    judging: Pictures
    some: Pictures
    search: Path
    request: Mapping[str, Any]
    norm: Norm
    rate: float
    steps: int
    universal_steps: int | None
    probes: int
    seed: int


def _accuracy(network: Network, plan: _Plan) -> dict[str, Any]:
    right = predict(network.classifier, plan.judging) == plan.judging.labels
    return {
        "clean_accuracy": proportion(right.double().numpy()),
        "test_error": proportion((~right).double().numpy()),
    }


def _jacobian(network: Network, plan: _Plan) -> Mapping[str, Any]:
    with tracked(f"{network.name}: Jacobians") as track:
        return jacobian_geometry(network.classifier, plan.some, seed=plan.seed, on_step=track)


def _rho_adv(network: Network, plan: _Plan) -> Mapping[str, Any]:
    with tracked(f"{network.name}: distance to the nearest boundary") as track:
        return rho_adv(network.classifier, plan.some, seed=plan.seed, on_step=track)


def _evasion(network: Network, plan: _Plan, epsilon: float) -> Mapping[str, Any]:
    return _point(evasion_over_epsilon, "untargeted", network, plan, epsilon)


def _targeted(network: Network, plan: _Plan, epsilon: float) -> Mapping[str, Any]:
    return _point(success_over_targets, "towards each class", network, plan, epsilon)


def _point(
    curve: Callable[..., Sequence[Mapping[str, Any]]],
    what: str,
    network: Network,
    plan: _Plan,
    epsilon: float,
) -> Mapping[str, Any]:
    """The one point of `curve` at `epsilon`."""
    with tracked(f"{network.name}: {what}, epsilon {epsilon:.4g}") as track:
        (point,) = curve(
            network.classifier,
            plan.crafting,
            plan.judging,
            norm=plan.norm,
            epsilons=[epsilon],
            seed=plan.seed,
            steps=plan.steps,
            on_step=track,
        )
    return point


def _universal_robustness(network: Network, plan: _Plan) -> Mapping[str, Any]:
    error = fooling_rate(plan.judging.labels, predict(network.classifier, plan.judging))
    if error >= plan.rate:
        # It needs no perturbation, which the search refuses; the other networks are to go on.
        return {"rate": plan.rate, "clean_error": error, "epsilon": 0.0, "n": len(plan.judging)}
    return search_universal_robustness(
        network.classifier,
        plan.crafting,
        plan.judging,
        plan.search,
        {**plan.request, "network": network.identity},
        norm=plan.norm,
        rate=plan.rate,
        steps=plan.universal_steps,
        number=plan.probes,
        seed=plan.seed,
    )


MEASURES: Final[dict[Part, Callable[[Network, _Plan], Mapping[str, Any]]]] = {
    "accuracy": _accuracy,
    "jacobian": _jacobian,
    "rho-adv": _rho_adv,
    "universal-robustness": _universal_robustness,
}
CURVES: Final[dict[Part, Callable[[Network, _Plan, float], Mapping[str, Any]]]] = {
    "evasion": _evasion,
    "targeted": _targeted,
}
"""Measured at each radius for itself."""


def _check(
    networks: Sequence[Network],
    radii: Sequence[float],
    norm: Norm,
    parts: Sequence[str],
    judging: Pictures,
) -> None:
    for radius in radii:
        check_ball(norm, radius, judging.shape)
    names = [network.name for network in networks]
    if not names or len(set(names)) < len(names) or "" in names:
        raise InvalidArgumentError(
            f"The networks are called {', '.join(map(repr, names)) or 'nothing'}; expected at "
            "least one, each with a name of its own."
        )
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InvalidArgumentError(
            f"There is no part {', '.join(map(repr, unknown)) or 'to measure'}; expected some of "
            f"{', '.join(PARTS)}."
        )


def _make_room(
    path: Path, request: Mapping[str, Any], networks: Sequence[Network], *, restart: bool
) -> None:
    """Refuse to go on with another comparison, or throw it away where that is wished."""
    before = earlier_results(path)
    if before is None:
        return
    if restart:
        path.unlink()
        _search_of(path).unlink(missing_ok=True)
        return
    check_same_request(before["request"], request, path, "a comparison")
    known = {name: one["identity"] for name, one in before.get("networks", {}).items()}
    again = {one.name: one.identity for one in networks if one.name in known}
    check_same_request(known, again, path, "a comparison")


def _search_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.search.safetensors")


def _setting(judging: Pictures) -> dict[str, Any]:
    return {
        "hardware": hardware(),
        "device": str(judging.device),
        "versions": versions(),
        "delivery": "pictures are kept in [0, 1] and not rounded to 8 bits",
    }
