"""Linear maps, whose weights may be laid out for the few rows of a decoding step.

Axes: M rows (all leading axes), D inputs, F outputs.

A step multiplies a few rows by large weights, so it should take as long as reading these does. Of
weights stored `(D, F)` XLA's CPU backend reads 10 GB/s where the machine has 20 (2 to 8 rows, jax
0.10); stored `(F, D)` and multiplied to `(F, M)`, it reads 14 to 18. From 128 rows on the two are
equal. Other platforms choose layouts themselves.
"""

from __future__ import annotations

import enum
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from gen.models import int8

NARROW_ROWS = 64
NARROW_ROWS_HALVED = 256  # the same of bfloat16
TURNED_ROWS = 16  # of bfloat16, from which products are made (F, M)
LARGE = 1 << 18  # entries of weights from which it matters how their gradient is made


@jax.custom_vjp
def times(x: jax.Array, kernel_DF: jax.Array) -> jax.Array:
    """`x @ kernel`, with the gradients written out.

    JAX makes that of the weights (F, D) and transposes it, and XLA's CPU backend then makes what
    comes before it, such as the derivative of an activation, in transposed order: a fifth of the
    training step of LlamaGen-B (8 samples, two cores).
    """
    return jax.lax.dot_general(x, kernel_DF, (((x.ndim - 1,), (0,)), ((), ())))


def _times_forward(x: jax.Array, kernel_DF: jax.Array) -> tuple:
    return times(x, kernel_DF), (x, kernel_DF)


def _times_backward(kept: tuple, grad: jax.Array) -> tuple:
    (x, kernel_DF), leading = kept, tuple(range(grad.ndim - 1))
    grad = jax.lax.optimization_barrier(grad)
    grad_DF = jax.lax.dot_general(x, grad, ((leading, leading), ((), ())))
    return jax.lax.dot_general(grad, kernel_DF, (((grad.ndim - 1,), (1,)), ((), ()))), grad_DF


times.defvjp(_times_forward, _times_backward)


class Linear(nnx.Linear):
    """`nnx.Linear` that `flip` may turn over: the results are the same, of 8 bits nearly so."""

    flipped = False
    scale: nnx.Param | None = None  # of each output, where weights are of 8 bits

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., D)` -> `(..., F)` in the compute dtype."""
        if not (self.flipped or self._is_large or is_halved(self.dtype)):
            return super().__call__(x)
        made = self.product(x.astype(self.dtype))
        return made if self.bias is None else made + self.bias[...].astype(self.dtype)

    @property
    def _is_large(self) -> bool:
        return self.kernel[...].size >= LARGE and jax.default_backend() == "cpu"

    def product(self, x: jax.Array, preferred: jnp.dtype | None = None) -> jax.Array:
        """Without the bias, in the dtype of `x`; sums and result in `preferred` if given."""
        if self.scale is not None:
            made_MF = int8.product(x.reshape(-1, x.shape[-1]), self.kernel[...], self.scale[...])
            return made_MF.reshape(*x.shape[:-1], -1).astype(preferred or x.dtype)
        kernel = self.kernel[...].astype(x.dtype)
        if is_halved(x.dtype):
            return in_halves(x, kernel, flipped=self.flipped).astype(preferred or x.dtype)
        if not self.flipped and self._is_large and preferred in (None, x.dtype):
            return times(x, kernel)
        if not self.flipped:
            return jnp.einsum("...d,df->...f", x, kernel, preferred_element_type=preferred)
        x_MD, rows = x.reshape(-1, x.shape[-1]), x.size // x.shape[-1]
        x_MD = jnp.pad(x_MD, ((0, padded(rows) - rows), (0, 0)))

        def plain(x_MD: jax.Array, kernel_FD: jax.Array) -> jax.Array:
            return jnp.einsum("md,fd->mf", x_MD, kernel_FD, preferred_element_type=preferred)

        made_MF = jax.lax.platform_dependent(
            x_MD, kernel, cpu=functools.partial(turned, preferred=preferred), default=plain
        )
        return made_MF[:rows].reshape(*x.shape[:-1], -1)


def padded(rows: int, *, least: int = 1) -> int:
    """A number of rows, this or the next, that products take in whole blocks.

    26 rows take 1.4 times as long as 32, 12 and 6 longer than 16 and 8 (768 x 2048, two cores).
    A number that is not known when the program is made stays as it is.
    """
    if not isinstance(rows, int):
        return rows
    return max(rows, least) if rows <= 4 else -(-rows // 8) * 8


class Storage(enum.Enum):
    """How weights lie, for how many rows of a product."""

    WIDE = "wide"  # (D, F), as stored
    NARROW = "narrow"  # (F, D)
    FEW = "few"  # (F, D), unless outputs are fewer than inputs: for bfloat16
    INT8 = "int8"  # (F, D) of 8 bits


def storage_for(rows: int, dtype: jnp.dtype, *, is_rounded: bool = False) -> Storage:
    """What suits products of so many rows in a compute dtype; `is_rounded`: weights to 8 bits."""
    if is_rounded and rows <= int8.ROWS:
        return Storage.INT8
    halved = is_halved(dtype)
    if rows > (NARROW_ROWS_HALVED if halved else NARROW_ROWS):
        return Storage.WIDE
    return Storage.FEW if halved and rows < TURNED_ROWS else Storage.NARROW


def is_halved(dtype: jnp.dtype) -> bool:
    """Whether a product of this dtype is made `in_halves`."""
    return dtype == jnp.bfloat16 and jax.default_backend() == "cpu"


def in_halves(x: jax.Array, kernel: jax.Array, *, flipped: bool = False) -> jax.Array:
    """`x @ kernel` of bfloat16 on CPUs, summed to float32: `(..., F)`.

    XLA's CPU backend has a fast product of them only for two rows or more and where the sums stay
    in float32: 13 GB/s, else 1 to 3. Weights `(F, D)` are up to 1.3 times as fast to read for few
    rows, and from 16 rows on products `(F, M)` are, up to 1.4 times.
    """
    x_MD = x.reshape(-1, x.shape[-1])
    rows = x_MD.shape[0]
    x_MD = jnp.pad(x_MD, ((0, padded(rows, least=2) - rows), (0, 0)))
    if not flipped:
        made_MF = jnp.einsum("md,df->mf", x_MD, kernel, preferred_element_type=jnp.float32)
    elif rows < TURNED_ROWS:
        made_MF = jnp.einsum("md,fd->mf", x_MD, kernel, preferred_element_type=jnp.float32)
    else:
        made_MF = turned(x_MD, kernel, jnp.float32)
    return made_MF[:rows].reshape(*x.shape[:-1], -1)


def turned(x_MD: jax.Array, kernel_FD: jax.Array, preferred: jnp.dtype | None) -> jax.Array:
    """The product `(M, F)`, made as `(F, M)`."""
    made_FM = jnp.einsum("md,fd->fm", x_MD, kernel_FD, preferred_element_type=preferred)
    # Else XLA folds the transpose into the product, which makes it the other one again.
    return jax.lax.optimization_barrier(made_FM).T


def flip(module: nnx.Module, storage: Storage) -> None:
    """Stores the weights of all linear maps in a module otherwise than `(D, F)` where that suits.

    The module is changed: call this on a copy made for one program. Weights stacked over layers
    are left as they are.
    """
    if storage == Storage.WIDE:
        return
    for _, part in nnx.iter_graph(module):
        if isinstance(part, Linear) and not part.flipped and part.kernel[...].ndim == 2:
            kernel_DF = part.kernel[...]
            inputs, outputs = kernel_DF.shape
            if storage == Storage.INT8:
                part.kernel, part.scale = map(nnx.Param, int8.stored(kernel_DF))
            elif storage == Storage.NARROW or outputs >= inputs:
                part.kernel = nnx.Param(kernel_DF.T)
            else:
                continue
            part.flipped = True
