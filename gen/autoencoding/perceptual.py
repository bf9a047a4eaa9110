"""Distance of images as a network trained on photographs sees it: LPIPS (Zhang et al. 2018).

Axes: B images, H height, W width, C channels.

The weights are the user's own files and are never trained: VGG16 as torchvision saves it, and the
maps that LPIPS adds. Source: richzhang/PerceptualSimilarity, lpips/lpips.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.errors import UserError
from gen.models.convolution import PRECISION
from gen.models.layers import Buffer, Series

# VGG16: widths of the convolutions between two poolings, and their numbers in torchvision's file.
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
LEAST_SIDE = 16  # pixels, of which the last stage leaves one
# Mean and deviation of the network's pixels, in the range from -1 to 1.
SHIFT, SCALE = np.float32([-0.030, -0.088, -0.188]), np.float32([0.458, 0.448, 0.450])


class Stage(nnx.Module):
    """Convolutions of 3x3 with ReLUs, and what each channel counts at their end."""

    def __init__(self, fan_in: int, widths: tuple[int, ...]):
        fans = zip((fan_in, *widths), widths)
        self.kernels = Series(Stored((3, 3, before, after)) for before, after in fans)
        self.biases = Series(Stored((after,)) for after in widths)
        self.weights = Buffer(jnp.full((widths[-1],), 1 / widths[-1]))

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        for kernel, bias in zip(self.kernels, self.biases):
            x_BHWC = jax.lax.conv_general_dilated(
                x_BHWC,
                kernel.array[...],
                window_strides=(1, 1),
                padding=((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=PRECISION,
            )
            x_BHWC = jax.nn.relu(x_BHWC + bias.array[...])
        return x_BHWC


class Stored(nnx.Module):
    """One array that is never trained."""

    def __init__(self, shape: tuple[int, ...]):
        self.array = Buffer(jnp.zeros(shape, jnp.float32))


class Perceptual(nnx.Module):
    """VGG16 up to its last convolution, zeros until `read` has filled it."""

    def __init__(self) -> None:
        fans = (3, *(stage[-1] for stage in WIDTHS))
        self.stages = Series(Stage(fan_in, stage) for fan_in, stage in zip(fans, WIDTHS))

    def __call__(self, wanted_BHWC: jax.Array, made_BHWC: jax.Array) -> jax.Array:
        """Mean distance of pairs of images in [-1, 1]."""
        x_BHWC, total_B = jnp.concatenate([wanted_BHWC, made_BHWC]), jnp.float32(0)
        x_BHWC = (x_BHWC - SHIFT) / SCALE
        for number, stage in enumerate(self.stages):
            if number:
                x_BHWC = jax.lax.reduce_window(
                    x_BHWC, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
                )
            x_BHWC = stage(x_BHWC)
            length = jnp.sqrt(jnp.sum(jnp.square(x_BHWC), axis=-1, keepdims=True) + 1e-20)
            wanted, made = jnp.split(x_BHWC / (length + 1e-10), 2)
            map_BHW = jnp.sum(jnp.square(wanted - made) * stage.weights[...], axis=-1)
            total_B += jnp.mean(map_BHW, axis=(1, 2))
        return jnp.mean(total_B)


def read(names: Collection[str], tensor: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """The parameters of `Perceptual` from tensors by name.

    Args:
      names: those that there are.
      tensor: name -> array: `features.0.weight` (O, I, 3, 3) and so on, and, if there,
        `lin0.model.1.weight` (1, C, 1, 1) and so on.

    Raises:
      UserError: a tensor is missing or of a wrong shape.
    """

    def of(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in names:
            raise UserError(f"config.loss.perceptual.files: {name} is in none of them")
        array = np.asarray(tensor(name), np.float32)
        if array.shape != shape:
            raise UserError(
                f"config.loss.perceptual.files: {name} has shape {array.shape} for {shape}"
            )
        return array

    stages, fan_in = {}, 3
    for stage, (numbers, widths) in enumerate(zip(NUMBERS, WIDTHS)):
        kernels, biases = {}, {}
        for index, (number, width) in enumerate(zip(numbers, widths)):
            kernel = of(f"features.{number}.weight", (width, fan_in, 3, 3))
            kernels[str(index)] = {"array": kernel.transpose(2, 3, 1, 0)}
            biases[str(index)] = {"array": of(f"features.{number}.bias", (width,))}
            fan_in = width
        weights = np.full((fan_in,), 1 / fan_in, np.float32)
        if any(name.startswith("lin") for name in names):
            weights = of(f"lin{stage}.model.1.weight", (1, fan_in, 1, 1)).reshape(-1)
        stages[str(stage)] = {"kernels": kernels, "biases": biases, "weights": weights}
    return {"stages": stages}
