"""A comparison made by hand, every network of it different."""

from typing import Any

import numpy as np

from training.evaluation.metrics import wilson_interval

EPSILONS = (0.1, 0.05, 0.2)
HEADLINE = 0.1


def figure(value: float, n: int = 400) -> dict[str, Any]:
    low, high = wilson_interval(value, n)
    return {"value": value, "n": n, "low": low, "high": high}


def network(number: int) -> dict[str, Any]:
    """All parts of one network; larger numbers are less accurate and more robust."""
    error, median = 0.05 + 0.03 * number, 0.5 - 0.2 * number
    counts, edges = np.histogram(median + np.linspace(-0.3, 0.3, 500), bins=80, range=(-1, 1))
    return {
        "identity": f"digest {number}",
        "accuracy": {"clean_accuracy": figure(1 - error), "test_error": figure(error)},
        "jacobian": {
            "n": 100, "norm": figure(0.6 - 0.1 * number), "deepfool_norm": figure(0.7),
            "not_crossed": 1, "stacked_norm": 30.5 + number, "stacked_bound": 300.5 + number,
            "similarity": {
                "median": median, "lower_quartile": median - 0.15, "upper_quartile": median + 0.15,
                "histogram": {"counts": counts.tolist(), "edges": edges.tolist()}, "pairs": 500,
            },
            "without_direction": 0,
        },
        "rho-adv": {"rho_adv": figure(0.1 + 0.01 * number), "not_crossed": 0},
        "evasion": {
            repr(one): {"epsilon": one, "uer": figure(min(1.0, error + (4 - number) * one))}
            for one in EPSILONS
        },
        "targeted": {
            repr(one): {
                "epsilon": one, "mean": 0.1 + (4 - number) * one, "standard_deviation": 0.02,
                "classes": [],
            }
            for one in EPSILONS
        },
        "universal-robustness": {"epsilon": 0.1 + 0.02 * number, "not_reached": 0.09, "rate": 0.75},
    }  # fmt: skip


def comparison(*names: str) -> dict[str, Any]:
    """What `compare` returns of networks of these names."""
    return {
        "request": {
            "norm": "linf", "rate": 0.75, "attack": "sign-pgd, 100 steps of 200 pictures",
            "pictures for Jacobians and rho_adv": 100,
        },
        "epsilon": HEADLINE,
        "networks": {name: network(number) for number, name in enumerate(names)},
    }  # fmt: skip
