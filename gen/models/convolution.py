"""Building blocks of the convolutional tokenizers: images in, feature maps out.

Axes: B batch, H height, W width, P = H * W positions, C channels (I in, O out), G groups of N
channels.

Parameters are float32; layers compute in the `dtype` they are built with. All products are exact
float32 where the dtype is: the TF32 or bfloat16 passes that accelerators use by default move a
latent far enough to change its nearest code.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

PRECISION = jax.lax.Precision.HIGHEST
Padding = tuple[tuple[int, int], tuple[int, int]]
FEW = 4  # output channels, such as those of pixels


def compiler_options() -> dict[str, str] | None:
    """What XLA is told about programs that are mostly convolutions; none: its defaults.

    Without YNNPACK its CPU backend makes them by Eigen, up to 1.4 times as fast (float32, 128 to
    640 channels, two cores; jax 0.10).
    """
    if jax.default_backend() != "cpu":
        return None
    return {"xla_cpu_experimental_ynn_fusion_type": ""}


class Conv(nnx.Module):
    """Convolution; kernel `(size, size, I, O)`, started LeCun normal, the bias (if any) at 0."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        size: int,
        *,
        stride: int = 1,
        padding: Padding | None = None,
        bias: bool = True,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """`padding`: ((top, bottom), (left, right)); by default the size stays, at stride 1."""
        shape = (size, size, fan_in, fan_out)
        kernel = nnx.initializers.lecun_normal()(rngs.params(), shape, jnp.float32)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((fan_out,), jnp.float32)) if bias else None
        self.stride = stride
        self.padding = padding or ((size // 2, size // 2),) * 2
        self.dtype = dtype

    def __call__(self, x_BHWI: jax.Array) -> jax.Array:
        stride = (self.stride, self.stride)
        kernel = self.kernel[...].astype(self.dtype)
        y_BHWO = convolved(x_BHWI.astype(self.dtype), kernel, stride, self.padding)
        return y_BHWO if self.bias is None else y_BHWO + self.bias[...].astype(self.dtype)


def convolved(
    x_BHWI: jax.Array, kernel: jax.Array, stride: tuple[int, int], padding: Padding
) -> jax.Array:
    """The convolution with a kernel `(height, width, I, O)`, the fastest way on this platform."""
    if stride == (1, 1) and kernel.shape[-1] <= FEW and jax.default_backend() == "cpu":
        return by_taps(x_BHWI, kernel, padding)
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x_BHWI, kernel, stride, padding, dimension_numbers=axes, precision=PRECISION
    )


def by_taps(x_BHWI: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """A convolution at stride 1 as one product for all taps of the kernel, then shifted sums.

    Eigen copies the window of each position before it multiplies, which takes much longer than the
    products themselves where outputs are few: 64 ms for 160 channels to 3 at 256 x 256, here 11.
    """
    rows, columns = kernel.shape[:2]
    taps = jnp.einsum("bhwi,yxio->bhwyxo", x_BHWI, kernel, precision=PRECISION)
    taps = jnp.pad(taps, ((0, 0), *padding, (0, 0), (0, 0), (0, 0)))
    height, width = taps.shape[1] - rows + 1, taps.shape[2] - columns + 1
    return sum(
        taps[:, y : y + height, x : x + width, y, x] for y in range(rows) for x in range(columns)
    )


class Downsample(Conv):
    """Halves height and width: padding at the bottom and the right only, 3x3 at stride 2.

    An odd size is rounded down; "SAME" padding would round it up.
    """

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        padding = ((0, 1), (0, 1))
        super().__init__(width, width, 3, stride=2, padding=padding, dtype=dtype, rngs=rngs)


class Upsample(Conv):
    """Doubles height and width: each pixel four times, then 3x3."""

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        super().__init__(width, width, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        return super().__call__(jnp.repeat(jnp.repeat(x_BHWC, 2, axis=1), 2, axis=2))


class GroupNorm(nnx.Module):
    """Mean 0 and variance 1 within each group of channels and all positions, then scale and bias.

    In float32, back to the dtype of the input. Any number of spatial dimensions. Source: Wu & He
    2018; the variance is the biased one.
    """

    def __init__(self, width: int, *, groups: int, eps: float):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.groups = groups
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x_BPGN = x.astype(jnp.float32).reshape(
            x.shape[0], -1, self.groups, x.shape[-1] // self.groups
        )
        centred_BPGN = x_BPGN - jnp.mean(x_BPGN, axis=(1, 3), keepdims=True)
        variance_B1G1 = jnp.mean(jnp.square(centred_BPGN), axis=(1, 3), keepdims=True)
        unit = (centred_BPGN * jax.lax.rsqrt(variance_B1G1 + self.eps)).reshape(x.shape)
        return (unit * self.scale[...] + self.bias[...]).astype(x.dtype)


class ResBlock(nnx.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), with x through a 1x1 map if widths differ."""

    def __init__(
        self,
        fan_in: int,
        width: int,
        *,
        groups: int,
        eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.norm1 = GroupNorm(fan_in, groups=groups, eps=eps)
        self.conv1 = Conv(fan_in, width, 3, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(width, groups=groups, eps=eps)
        self.conv2 = Conv(width, width, 3, dtype=dtype, rngs=rngs)
        same = fan_in == width
        self.shortcut = None if same else Conv(fan_in, width, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        h_BHWC = self.conv1(jax.nn.silu(self.norm1(x_BHWC)))
        h_BHWC = self.conv2(jax.nn.silu(self.norm2(h_BHWC)))
        return h_BHWC + (x_BHWC if self.shortcut is None else self.shortcut(x_BHWC))


class AttentionBlock(nnx.Module):
    """x + out(attention(norm(x))): one head over all positions; logits and softmax in float32."""

    def __init__(self, width: int, *, groups: int, eps: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm = GroupNorm(width, groups=groups, eps=eps)
        self.query = Conv(width, width, 1, dtype=dtype, rngs=rngs)
        self.key = Conv(width, width, 1, dtype=dtype, rngs=rngs)
        self.value = Conv(width, width, 1, dtype=dtype, rngs=rngs)
        self.out = Conv(width, width, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        batch, _, _, width = x_BHWC.shape
        h_BHWC = self.norm(x_BHWC)
        q_BPC, k_BPC, v_BPC = (
            layer(h_BHWC).reshape(batch, -1, width) for layer in (self.query, self.key, self.value)
        )
        options = {"precision": PRECISION, "preferred_element_type": jnp.float32}
        logits_BPP = jnp.einsum("bqc,bkc->bqk", q_BPC, k_BPC, **options) * width**-0.5
        weights_BPP = jax.nn.softmax(logits_BPP).astype(v_BPC.dtype)
        mixed_BPC = jnp.einsum("bqk,bkc->bqc", weights_BPP, v_BPC, **options)
        return x_BHWC + self.out(mixed_BPC.reshape(x_BHWC.shape))
