"""A plain vision transformer: every slot sees every other, norms stand before the maps.

Axes: B batch, S slots, D width, F hidden width of the feed-forward.

Sources: Dosovitskiy et al. 2021; bytedance/1d-tokenizer, `modeling/modules/blocks.py`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.errors import UserError
from gen.models.attention import Attention
from gen.models.backbone import stack
from gen.models.layers import linear
from gen.models.post_norm import LayerNorm

INIT_STD = 0.02


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of a transformer.

    Attributes:
      width: D; a multiple of `heads`.
      depth: number of blocks.
      heads: attention heads.
      ffn_width: F.
      norm_eps: added to the variance before the root.
    """

    width: int
    depth: int
    heads: int
    ffn_width: int
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.ffn_width) < 1 or self.norm_eps < 0:
            raise UserError(f"sizes of a transformer must be at least 1: {self}")
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not divisible by {self.heads} heads")


class Block(nnx.Module):
    """h = x + attention(norm(x)); y = h + down(gelu(up(norm(h)))), the GELU exact."""

    def __init__(self, config: ViTConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.attention_norm = LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(
            config.width,
            num_heads=config.heads,
            num_kv_heads=config.heads,
            dropout_rate=0.0,
            init_std=INIT_STD,
            bias=True,
            key_bias=True,  # which changes nothing, but the published weights have it
            **options,
        )
        self.ffn_norm = LayerNorm(config.width, eps=config.norm_eps)
        self.up = linear(config.width, config.ffn_width, bias=True, std=INIT_STD, **options)
        self.down = linear(config.ffn_width, config.width, bias=True, std=INIT_STD, **options)

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        everything_SS = np.ones((x_BSD.shape[1],) * 2, bool)
        mixed_BSD, _ = self.attention(self.attention_norm(x_BSD), mask=everything_SS)
        h_BSD = x_BSD + mixed_BSD
        hidden_BSF = jax.nn.gelu(self.up(self.ffn_norm(h_BSD)), approximate=False)
        return h_BSD + self.down(hidden_BSF)


class ViT(nnx.Module):
    """A norm, blocks, and a norm, `(B, S, D)` to the same; one program for all blocks."""

    def __init__(self, config: ViTConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm_in = LayerNorm(config.width, eps=config.norm_eps)
        self.blocks = stack(
            lambda inner: Block(config, dtype=dtype, rngs=inner), config.depth, rngs
        )
        self.norm_out = LayerNorm(config.width, eps=config.norm_eps)
        self.dtype = dtype

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        graphdef, stacked = nnx.split(self.blocks)

        def body(x_BSD: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
            return nnx.merge(graphdef, params)(x_BSD), None

        # Float32 is to be exact on accelerators too: see `gen.models.convolution`.
        with jax.default_matmul_precision("highest"):
            x_BSD, _ = jax.lax.scan(body, self.norm_in(x_BSD.astype(self.dtype)), stacked)
        return self.norm_out(x_BSD)
