"""The adversary of a tokenizer: tells patches of photographs from reconstructions (PatchGAN).

Axes: B images, H height, W width, C channels; h and w of the map of patches.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from gen.autoencoding.losses import per_image
from gen.errors import UserError
from gen.models.convolution import Conv, GroupNorm
from gen.models.layers import Series
from gen.models.vqgan import PIXEL_CHANNELS

SLOPE = 0.2  # of the leaky ReLU
MOST_WIDER = 8  # times the width of the first layer


class Discriminator(nnx.Module):
    """Pixels `(B, H, W, 3)` to a number per patch `(B, h, w)`: high for what looks real.

    `layers` + 1 convolutions of 4x4, all but the last at stride 2, and one more to a single
    channel. Group norms in place of the batch norms of the source: nothing but parameters is
    remembered. Source: Isola et al. 2017, as in taming-transformers' `NLayerDiscriminator`.
    """

    def __init__(self, width: int, layers: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        widths = [width * min(2**number, MOST_WIDER) for number in range(layers + 1)]
        options = {"padding": ((1, 1), (1, 1)), "dtype": dtype, "rngs": rngs}
        self.convs = Series(
            Conv(fan_in, fan_out, 4, stride=2 if number < layers else 1, **options)
            for number, (fan_in, fan_out) in enumerate(zip((PIXEL_CHANNELS, *widths), widths))
        )
        self.norms = Series(GroupNorm(w, groups=math.gcd(w, 32), eps=1e-6) for w in widths[1:])
        self.out = Conv(widths[-1], 1, 4, **options)

    def __call__(self, pixels_BHWC: jax.Array) -> jax.Array:
        x_BHWC = pixels_BHWC
        for number, conv in enumerate(self.convs):
            x_BHWC = conv(x_BHWC)
            if number:
                x_BHWC = self.norms[number - 1](x_BHWC)
            x_BHWC = jax.nn.leaky_relu(x_BHWC, SLOPE)
        return self.out(x_BHWC)[..., 0].astype(jnp.float32)


def check_size(size: tuple[int, int], layers: int) -> None:
    """Raises `UserError` where nothing would be left of such images after the last layer."""
    least = 3 * 2**layers
    if min(size) < least:
        raise UserError(
            f"an adversary of {layers} layers needs crops of {least} pixels, not {size}"
        )


def adversarial(
    model: Discriminator, real_BHWC: jax.Array, made_BHWC: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the tokenizer and what the discriminator minimise, each moving its own side alone.

    The tokenizer: -mean D(made). The discriminator, by the hinge: half of mean max(0, 1 - D(real))
    + mean max(0, 1 + D(made)) (Lim & Ye 2017).
    """
    graphdef, params = nnx.split(model)
    fixed = nnx.merge(graphdef, jax.lax.stop_gradient(params))
    fooling = -per_image(fixed(made_BHWC))
    real, made = model(real_BHWC), model(jax.lax.stop_gradient(made_BHWC))
    telling = per_image(jax.nn.relu(1 - real)) + per_image(jax.nn.relu(1 + made))
    return fooling, telling / 2
