"""Gabor-noise universal perturbations: black box, no gradients.

Source: Co et al. 2019 (see `procedural`), section 4.2: sparse convolution noise, that is impulses
of random weight at random places, convolved with a Gabor kernel (Lagae et al. 2009, "Procedural
Noise using Sparse Gabor Convolution"). Several orientations in one kernel make it isotropic.

Departures: sigma is the standard deviation of the envelope in pixels, and the kernel ends at three
of them; impulses lie around the picture too, so that the noise does not fade at its border.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.attacks.job import AttackJob, Method
from training.attacks.procedural import TRIES, best_texture, log_uniform

IMPULSES_PER_KERNEL = 16
"""Impulses in a square as large as the kernel."""


def gabor_kernel(
    *, sigma: float, wavelength: float, orientation: float, directions: int = 1
) -> Tensor:
    """`exp(-r^2 / (2 sigma^2)) cos(2 pi u / wavelength)`, `(2 R + 1, 2 R + 1)`, R = ceil(3 sigma).

    Args:
        sigma: standard deviation of the envelope in pixels.
        wavelength: of the cosine, in pixels.
        orientation: angle in radians from the columns' axis along which `u` runs.
        directions: cosines that are added up, their angles evenly spread over half a turn.
    """
    radius = math.ceil(3 * sigma)
    along = torch.arange(-radius, radius + 1, dtype=torch.float32)
    rows, columns = along[:, None], along[None, :]
    waves = torch.zeros(len(along), len(along))
    for number in range(directions):
        angle = orientation + math.pi * number / directions
        run = columns * math.cos(angle) + rows * math.sin(angle)
        waves += (2 * math.pi / wavelength * run).cos()
    return waves * (-(rows**2 + columns**2) / (2 * sigma**2)).exp()


def sparse_convolution(impulses: Tensor, kernel: Tensor) -> Tensor:
    """The sum of kernels centred at the impulses, each times its weight.

    Args:
        impulses: weights `(H + 2 R, W + 2 R)`: the picture and a margin of R around it.
        kernel: `(2 R + 1, 2 R + 1)`, symmetric about its centre as Gabor kernels are.

    Returns:
        `(H, W)`.
    """
    return F.conv2d(impulses[None, None], kernel[None, None])[0, 0]


def gabor_noise(
    height: int,
    width: int,
    *,
    sigma: float,
    wavelength: float,
    orientation: float,
    generator: torch.Generator,
    directions: int = 1,
    density: float = IMPULSES_PER_KERNEL,
) -> Tensor:
    """Sparse convolution noise, `(height, width)` float32 of mean zero.

    Args:
        height: in pixels.
        width: in pixels.
        sigma: see `gabor_kernel`, as are `wavelength`, `orientation` and `directions`.
        wavelength: in pixels.
        orientation: in radians.
        generator: draws places and weights (uniform in [-1, 1]) of the impulses.
        directions: 1 is anisotropic.
        density: impulses in a square as large as the kernel, on average.
    """
    kernel = gabor_kernel(
        sigma=sigma, wavelength=wavelength, orientation=orientation, directions=directions
    )
    margin = len(kernel) - 1
    sides = (height + margin, width + margin)
    count = math.ceil(density * sides[0] * sides[1] / len(kernel) ** 2)
    places = torch.randint(sides[0] * sides[1], (count,), generator=generator)
    weights = torch.rand(count, generator=generator) * 2 - 1
    impulses = torch.zeros(sides[0] * sides[1]).index_add_(0, places, weights)
    return sparse_convolution(impulses.reshape(sides), kernel)


def draw_gabor(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A texture `(height, width)` of random scale, wavelength, orientation and directions."""
    noise: Tensor = gabor_noise(
        height,
        width,
        sigma=log_uniform(1.5, 9.0, generator=generator),
        wavelength=log_uniform(2.0, 9.0, generator=generator),
        orientation=math.pi * float(torch.rand((), generator=generator)),
        directions=int(torch.randint(1, 13, (), generator=generator)),
        generator=generator,
    )
    return noise


def _craft(job: AttackJob) -> Tensor:
    return best_texture(
        job.classifier,
        job.pictures,
        draw_gabor,
        norm=job.norm,
        epsilon=job.epsilon,
        generator=job.generator,
        target_class=job.target_class,
        steps=TRIES if job.steps is None else job.steps,
        on_step=job.on_step,
    )


GABOR = Method(
    summary="Gabor noise, the best of some tries; labels only",
    family="procedural",
    craft=_craft,
    takes=frozenset({"target_class", "steps"}),
)
