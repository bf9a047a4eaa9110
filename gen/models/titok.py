"""The transformers of TiTok: an image as a short row of tokens, and back.

Axes: B batch, H height, W width, S slots, K tokens of an image, G x G patches, D width, C channels
of a token, V proxy codes.

The encoder reads patches and K learned queries, and gives what became of the queries. The decoder
reads the tokens and G x G times one learned vector, and gives what became of these. Source:
bytedance/1d-tokenizer, `modeling/modules/blocks.py` and `modeling/titok.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from gen.models.convolution import PRECISION, Conv
from gen.models.layers import linear
from gen.models.maskgit_vqgan import Decoder as PixelDecoder
from gen.models.vit import ViT, ViTConfig
from gen.models.vqgan import PIXEL_CHANNELS, StackConfig


def learned(*shape: int, rngs: nnx.Rngs) -> nnx.Param:
    """Vectors that start normal, at a length near 1."""
    return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * shape[-1] ** -0.5)


class Slots(nnx.Module):
    """What both transformers have: a class vector, tables of positions, and the blocks."""

    def __init__(
        self, config: ViTConfig, side: int, num_tokens: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.class_embedding = learned(1, config.width, rngs=rngs)
        self.positions = learned(side**2 + 1, config.width, rngs=rngs)
        self.token_positions = learned(num_tokens, config.width, rngs=rngs)
        self.vit = ViT(config, dtype=dtype, rngs=rngs)

    def run(self, cells_BSD: jax.Array, tokens_BKD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cells and tokens after the blocks; the class vector goes first and is dropped."""
        batch, count, width = cells_BSD.shape
        first_B1D = jnp.broadcast_to(self.class_embedding[...], (batch, 1, width))
        cells_BSD = jnp.concatenate([first_B1D, cells_BSD], axis=1) + self.positions[...]
        tokens_BKD = tokens_BKD + self.token_positions[...]
        x_BSD = self.vit(jnp.concatenate([cells_BSD, tokens_BKD], axis=1))
        return x_BSD[:, 1 : count + 1], x_BSD[:, count + 1 :]


class Encoder(Slots):
    """Pixels `(B, H, W, 3)` to `(B, 1, K, C)`.

    `scrambled`: the K rows of D are read again as D rows of K, as the first published models do.
    """

    def __init__(
        self,
        config: ViTConfig,
        patch: int,
        side: int,
        num_tokens: int,
        channels: int,
        *,
        scrambled: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        super().__init__(config, side, num_tokens, **options)
        none = ((0, 0), (0, 0))
        self.patches = Conv(
            PIXEL_CHANNELS, config.width, patch, stride=patch, padding=none, **options
        )
        self.queries = learned(num_tokens, config.width, rngs=rngs)
        self.out = Conv(config.width, channels, 1, **options)
        self.scrambled = scrambled

    def __call__(self, pixels_BHWC: jax.Array) -> jax.Array:
        batch = pixels_BHWC.shape[0]
        queries_BKD = jnp.broadcast_to(self.queries[...], (batch, *self.queries.shape))
        patches_BHWD = self.patches(pixels_BHWC)
        patches_BSD = patches_BHWD.reshape(batch, -1, patches_BHWD.shape[-1])
        _, x_BKD = self.run(patches_BSD, queries_BKD)
        if self.scrambled:
            x_BKD = jnp.swapaxes(x_BKD.reshape(batch, x_BKD.shape[2], x_BKD.shape[1]), 1, 2)
        return self.out(x_BKD[:, None])


class Decoder(Slots):
    """Codes `(B, 1, K, C)` to features `(B, G, G, D)`."""

    def __init__(
        self,
        config: ViTConfig,
        side: int,
        num_tokens: int,
        channels: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        super().__init__(config, side, num_tokens, **options)
        self.embed = linear(channels, config.width, bias=True, **options)
        self.mask_token = learned(1, 1, config.width, rngs=rngs)
        self.side = side

    def __call__(self, codes_B1KC: jax.Array) -> jax.Array:
        batch, width = codes_B1KC.shape[0], self.mask_token.shape[-1]
        masks_BSD = jnp.broadcast_to(self.mask_token[...], (batch, self.side**2, width))
        with jax.default_matmul_precision("highest"):
            tokens_BKD = self.embed(codes_B1KC[:, 0])
        x_BSD, _ = self.run(masks_BSD, tokens_BKD)
        return x_BSD.reshape(batch, self.side, self.side, width)


class PatchHead(nnx.Module):
    """Features `(B, G, G, D)` to pixels: each cell a patch, then 3x3 over all."""

    def __init__(self, width: int, patch: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.patches = Conv(width, PIXEL_CHANNELS * patch**2, 1, dtype=dtype, rngs=rngs)
        self.out = Conv(PIXEL_CHANNELS, PIXEL_CHANNELS, 3, dtype=dtype, rngs=rngs)
        self.patch = patch

    def __call__(self, x_BHWD: jax.Array) -> jax.Array:
        batch, rows, columns, _ = x_BHWD.shape
        shape = (batch, rows, columns, self.patch, self.patch, PIXEL_CHANNELS)
        cells = self.patches(x_BHWD).reshape(shape).swapaxes(2, 3)
        return self.out(cells.reshape(batch, rows * self.patch, -1, PIXEL_CHANNELS))


class ProxyHead(nnx.Module):
    """Features `(B, G, G, D)` to pixels, by way of the codes of another tokenizer.

    The features become chances of its codes, the mean code under these goes into its decoder.
    """

    def __init__(
        self,
        width: int,
        num_codes: int,
        code_width: int,
        stack: StackConfig,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        self.hidden = Conv(width, 2 * width, 1, **options)
        self.logits = Conv(2 * width, num_codes, 1, **options)
        self.codes = learned(num_codes, code_width, rngs=rngs)
        self.decoder = PixelDecoder(stack, code_width, **options)

    def __call__(self, x_BHWD: jax.Array) -> jax.Array:
        logits_BHWV = self.logits(jnp.tanh(self.hidden(x_BHWD)))
        chances_BHWV = jax.nn.softmax(logits_BHWV.astype(jnp.float32))
        mean_BHWC = jnp.einsum("bhwv,vc->bhwc", chances_BHWV, self.codes[...], precision=PRECISION)
        return self.decoder(mean_BHWC)
