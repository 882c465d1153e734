"""Perlin-noise universal perturbations: black box, no gradients.

Source: Co et al. 2019 (see `procedural`), section 4.1: octaves of Perlin's gradient noise under a
sine colour map, `sin(2 pi phi S(x, y))`. The noise itself: Perlin 2002, "Improving Noise", whose
interpolation is `6 t^5 - 15 t^4 + 10 t^3`.

Departures: lattice gradients are unit vectors drawn per octave, where Perlin hashes one table of a
few directions for all of them; each octave lies somewhere else on its lattice, so that the corner
of the picture is no zero of them all.
"""

import math

import torch
from torch import Tensor

from training.attacks.job import AttackJob, Method
from training.attacks.procedural import TRIES, best_texture, log_uniform

LACUNARITY = 2.0
"""How many times finer each octave is than the one before."""
PERSISTENCE = 0.5
"""How many times lower, as is usual where frequency doubles."""


def gradient_noise(rows: Tensor, columns: Tensor, gradients: Tensor) -> Tensor:
    """Perlin's noise at the points of a grid, `(H, W)`; zero where both coordinates are whole.

    Args:
        rows: `(H,)` float32 in [0, Y - 1), in units of the lattice.
        columns: `(W,)` float32 in [0, X - 1).
        gradients: `(Y, X, 2)`, the slope along rows and along columns at each lattice point.
    """
    top, left = rows.long(), columns.long()
    down, right = (rows - top)[:, None], (columns - left)[None, :]

    def seen_from(below: int, beyond: int) -> Tensor:
        slopes = gradients[(top + below)[:, None], (left + beyond)[None, :]]
        return slopes[..., 0] * (down - below) + slopes[..., 1] * (right - beyond)

    upper = torch.lerp(seen_from(0, 0), seen_from(0, 1), _fade(right))
    lower = torch.lerp(seen_from(1, 0), seen_from(1, 1), _fade(right))
    return torch.lerp(upper, lower, _fade(down))


def _fade(share: Tensor) -> Tensor:
    return share**3 * (share * (share * 6 - 15) + 10)


def perlin_noise(
    height: int,
    width: int,
    *,
    periods: tuple[float, float],
    octaves: int,
    generator: torch.Generator,
    lacunarity: float = LACUNARITY,
    persistence: float = PERSISTENCE,
) -> Tensor:
    """Octaves of gradient noise, `(height, width)` float32, about -1 to 1.

    Args:
        height: in pixels.
        width: in pixels.
        periods: of the first octave's lattice along rows and along columns, in pixels.
        octaves: how many to add up.
        generator: draws gradients, and where each octave lies on its lattice.
        lacunarity: ratio of frequencies of an octave to the one before.
        persistence: ratio of their amplitudes.
    """
    total = torch.zeros(height, width)
    for octave in range(octaves):
        spots = [
            torch.arange(side) * (lacunarity**octave / period) + torch.rand((), generator=generator)
            for side, period in zip((height, width), periods, strict=True)
        ]
        counts = [int(spot[-1]) + 2 for spot in spots]
        angles = torch.rand(*counts, generator=generator) * (2 * math.pi)
        gradients = torch.stack([angles.sin(), angles.cos()], dim=-1)
        total += persistence**octave * gradient_noise(spots[0], spots[1], gradients)
    return total


def sine_colour_map(noise: Tensor, frequency: float) -> Tensor:
    """`sin(2 pi frequency noise)`: turns slopes into bands, the more the higher `frequency`."""
    return (2 * math.pi * frequency * noise).sin()


def draw_perlin(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A texture `(height, width)` of random periods, octaves and sine frequency."""
    longest = float(max(height, width))
    periods = [log_uniform(4.0, max(longest, 8.0), generator=generator) for _ in range(2)]
    octaves = int(torch.randint(1, 5, (), generator=generator))
    frequency = log_uniform(4.0, 32.0, generator=generator)
    noise = perlin_noise(
        height, width, periods=(periods[0], periods[1]), octaves=octaves, generator=generator
    )
    return sine_colour_map(noise, frequency)


def _craft(job: AttackJob) -> Tensor:
    return best_texture(
        job.classifier,
        job.pictures,
        draw_perlin,
        norm=job.norm,
        epsilon=job.epsilon,
        generator=job.generator,
        target_class=job.target_class,
        steps=TRIES if job.steps is None else job.steps,
        on_step=job.on_step,
    )


PERLIN = Method(
    summary="Perlin noise, the best of some tries; labels only",
    family="procedural",
    craft=_craft,
    takes=frozenset({"target_class", "steps"}),
)
