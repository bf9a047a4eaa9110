"""The contract of a tokenizer: pixels to tokens and back.

Axes: B samples, T frames, H height, W width, P positions, V codes, C channels of a code.

Pixels are `(B, H, W, 3)` for images and `(B, T, H, W, 3)` for videos; a `shape` is theirs without
the first and last axis. Tokens are `(B, *layout.sample_shape)`, whatever the kind: ids, or float32
latents `(B, P, C)` of a kind without codes. A subclass says only what differs: its config, the
module that holds the weights, and the layout of a shape.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from jax.sharding import Mesh

from gen import sharding
from gen.checks import check_tokens
from gen.errors import UserError
from gen.layouts import Layout
from gen.models.convolution import compiler_options
from gen.tokenizers import pixels as pixel_values
from gen.tokenizers.weights import check_meta, check_shapes, shapes_of

DTYPES = ("float32", "bfloat16")


class Tokenizer(abc.ABC):
    """Pixels <-> tokens with weights: pure functions of `params`, compiled once per shape.

    Attributes:
      kind: name of the kind of tokenizer, a key of `gen.tokenizers.TOKENIZERS`.
      config: an instance of `Config`.
      params: nested dict of float32 arrays.
      pixel_range: least and greatest pixel, as floats.
      meta: `{"id", "sha256" of the published file or None, "source", ...}`, for manifests.
      stored: what datasets hold of it, and the module's method that gives it.
    """

    kind: ClassVar[str]
    Config: ClassVar[type]
    pixel_range: ClassVar[tuple[float, float]]
    stored: ClassVar[tuple[str, str]] = ("tokens", "encode")

    def __init__(
        self,
        config: Any,
        params: Mapping[str, Any],
        *,
        meta: Mapping[str, Any] | None = None,
        mesh: Mesh | None = None,
        dtype: str = "float32",
    ):
        """
        Args:
          config: sizes of the tokenizer.
          params: its weights, a nested dict of arrays.
          meta: where the weights come from; the kind alone by default.
          mesh: devices to spread batches over; one device by default.
          dtype: what decoding computes in, `float32` or `bfloat16`; encoding is always float32.

        Raises:
          UserError: the weights do not fit the config; every one that does not is named.
        """
        if dtype not in DTYPES:
            raise UserError(f'a tokenizer decodes in {" or ".join(DTYPES)}, not "{dtype}"')
        self.config = config
        self.meta = check_meta({"id": self.kind, "sha256": None, "source": ""} | dict(meta or {}))
        self.mesh = mesh
        model = nnx.eval_shape(lambda: self.build(config, nnx.Rngs(0), dtype=jnp.dtype(dtype)))
        self._graphdef, abstract = nnx.split(model)
        flat = traverse_util.flatten_dict(dict(params), sep="/")
        check_shapes({path: np.shape(leaf) for path, leaf in flat.items()}, shapes_of(abstract))
        where = None if mesh is None else sharding.replicated(mesh)
        put = {path: jax.device_put(jnp.asarray(a, jnp.float32), where) for path, a in flat.items()}
        self.params = traverse_util.unflatten_dict(put, sep="/")
        self._programs: dict[tuple[str, Layout], Callable] = {}

    @classmethod
    @abc.abstractmethod
    def build(cls, config: Any, rngs: nnx.Rngs, *, dtype: jnp.dtype) -> nnx.Module:
        """A `TokenizerModel` with float32 parameters whose decoder computes in `dtype`."""

    @property
    @abc.abstractmethod
    def downsample(self) -> tuple[int, int, int]:
        """Pixels per cell: (frames, height, width)."""

    @abc.abstractmethod
    def layout(self, shape: Sequence[int]) -> Layout:
        """The layout of the tokens of one sample.

        Args:
          shape: (height, width) of an image or (frames, height, width) of a video, in pixels.

        Raises:
          UserError: this tokenizer cannot cut that shape into cells.
        """

    @abc.abstractmethod
    def default_shape(self, num_positions: int) -> tuple[int, ...]:
        """The shape that P positions decode to where the caller names none, such as a square.

        Raises:
          UserError: there is no such shape.
        """

    def pixel_shape(self, lattice: Sequence[int]) -> tuple[int, ...]:
        """The shape, as `layout` takes it, of ([frames,] h, w) cells; one frame is an image."""
        sizes = lattice[1:] if len(lattice) == 3 and lattice[0] == 1 else lattice
        return tuple(n * cell for n, cell in zip(sizes, self.downsample[-len(sizes) :]))

    # What follows serves every kind as it is.

    @classmethod
    def fresh(cls, config: Any, seed: int = 0, **options: Any) -> Tokenizer:
        """An untrained tokenizer; the options are those of the constructor."""
        model = cls.build(config, nnx.Rngs(seed), dtype=jnp.dtype(jnp.float32))
        return cls(config, nnx.to_pure_dict(nnx.state(model)), **options)

    @classmethod
    def shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        """Path -> shape of every parameter, such as "encoder/conv_in/kernel"; costs no memory."""
        dtype = jnp.dtype(jnp.float32)
        model = nnx.eval_shape(lambda: cls.build(config, nnx.Rngs(0), dtype=dtype))
        return shapes_of(nnx.state(model))

    def encode(self, pixels: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
        """Tokens of images or videos.

        Args:
          pixels: uint8, or floats in `pixel_range`: `(B, H, W, 3)` or `(B, T, H, W, 3)`.
          batch_size: samples encoded together; the tokens are the same whatever it is, but for
            latents that lie between two codes to the last digit.

        Returns:
          `(B, *layout.sample_shape)`: int32, or float32 where latents are continuous.

        Raises:
          UserError: the pixels have a wrong shape, dtype or range, or do not divide into cells.
        """
        return self._from_pixels("encode", pixels, batch_size)

    def latents(self, pixels: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
        """What `encode` makes tokens of, float32 `(B, h, w, C)`; arguments as `encode`."""
        return self._from_pixels("latents", pixels, batch_size)

    def decode(
        self, tokens: np.ndarray, shape: Sequence[int] | None = None, *, batch_size: int = 16
    ) -> np.ndarray:
        """Pixels of tokens, not clamped (see `to_uint8`).

        Args:
          tokens: `(B, *layout.sample_shape)`: ints, or floats where latents are continuous.
          shape: (height, width) in pixels, or (frames, height, width); by default what
            `default_shape` says, a square for images.
          batch_size: samples decoded together.

        Returns:
          float32 `(B, H, W, 3)` or `(B, T, H, W, 3)`, in `pixel_range` but for overshoot.

        Raises:
          UserError: an id lies outside of the codebook, a latent is not finite, or the tokens do
            not fit the shape.
        """
        return self._from_tokens("decode", tokens, shape, batch_size)

    def embed(
        self, tokens: np.ndarray, shape: Sequence[int] | None = None, *, batch_size: int = 16
    ) -> np.ndarray:
        """The latents that tokens stand for, float32 `(B, h, w, C)`; arguments as `decode`."""
        return self._from_tokens("embed", tokens, shape, batch_size)

    def decode_latents(self, latents: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
        """Pixels, as from `decode`, of latents such as `embed` gives.

        Args:
          latents: floats `(B, h, w, C)`, with frames in front of h for videos.
          batch_size: samples decoded together.

        Raises:
          UserError: the latents are not of the shape that `embed` gives, or not finite.
        """
        latents = np.asarray(latents)
        if latents.ndim not in (4, 5) or not latents.size:
            raise UserError(f"latents have shape (B, [frames,] h, w, C), not {latents.shape}")
        layout = self.layout(self.pixel_shape(latents.shape[1:-1]))
        dtype = jnp.float32 if layout.is_continuous else jnp.int32
        tokens = jax.ShapeDtypeStruct((1, *layout.sample_shape), dtype)
        wanted = jax.eval_shape(self.program("embed", layout), self.params, tokens).shape[1:]
        if latents.shape[1:] != wanted or not np.isfinite(latents).all():
            shapes = f"(B, {str(wanted)[1:]}; these are {latents.shape}"
            raise UserError(f"latents must be finite, of shape {shapes}")
        latents = latents.astype(np.float32)
        return self._run("decode_latents", layout, latents.__getitem__, len(latents), batch_size)

    def to_uint8(self, pixels: np.ndarray) -> np.ndarray:
        """Decoded pixels clamped to `pixel_range` and rounded to 0..255.

        Raises:
          UserError: they are no floats, or NaN is among them.
        """
        return pixel_values.to_uint8(pixels, self.pixel_range)

    @property
    def codebook(self) -> np.ndarray:
        """The codes as `embed` looks them up, float32 `(V, C)`."""
        return np.asarray(nnx.merge(self._graphdef, self.params).codes())

    def program(self, method: str, layout: Layout) -> Callable[[Any, jax.Array], jax.Array]:
        """The compiled function of (params, rows) behind a method of `TokenizerModel`.

        For callers with a loop of their own, or that export it: inputs are not checked. It has
        compiler options of its own, which JAX allows outside of another `jit` alone.
        """
        key = (method, layout)
        if key not in self._programs:
            body = functools.partial(_apply, self._graphdef, method, layout)
            self._programs[key] = jax.jit(body, compiler_options=compiler_options())
        return self._programs[key]

    def _from_pixels(self, method: str, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        pixels = pixel_values.check_pixels(pixels, self.pixel_range)
        layout = self.layout(pixels.shape[1:-1])

        def scaled(rows: np.ndarray) -> np.ndarray:
            # Batch by batch: floats take four times the memory of a set of uint8 images.
            return pixel_values.scale(pixels[rows], self.pixel_range)

        return self._run(method, layout, scaled, len(pixels), batch_size)

    def _from_tokens(
        self, method: str, tokens: np.ndarray, shape: Sequence[int] | None, batch_size: int
    ) -> np.ndarray:
        tokens = np.asarray(tokens)
        if shape is None:
            shape = self.default_shape(tokens.shape[1] if tokens.ndim > 1 else 0)
        layout = self.layout(shape)
        tokens = check_tokens(layout, tokens)
        return self._run(method, layout, tokens.__getitem__, len(tokens), batch_size)

    def _run(
        self,
        method: str,
        layout: Layout,
        rows_at: Callable[[np.ndarray], np.ndarray],
        total: int,
        batch_size: int,
    ) -> np.ndarray:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size must be a whole number from 1, not {batch_size!r}")
        where, ways = None, 1
        if self.mesh is not None:
            where = sharding.batch_sharding(self.mesh)
            ways = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        size = -(-min(batch_size, total) // ways) * ways
        program, done = self.program(method, layout), []
        for start in range(0, total, size):
            # The last batch is filled up with repeats, so that one program serves all.
            rows = np.minimum(np.arange(start, start + size), total - 1)
            done.append(np.asarray(program(self.params, jax.device_put(rows_at(rows), where))))
        return np.concatenate(done)[:total]


def _apply(
    graphdef: Any, method: str, layout: Layout, params: dict[str, Any], rows: jax.Array
) -> jax.Array:
    """Traced body of every method."""
    return getattr(nnx.merge(graphdef, params), method)(rows, layout)
