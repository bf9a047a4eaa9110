"""Linear maps, whose weights may be laid out for the few rows of a decoding step.

Axes: M rows (all leading axes), D inputs, F outputs.

A step multiplies a few rows by large weights, so it should take as long as reading these does. Of
weights stored `(D, F)` XLA's CPU backend reads 10 GB/s where the machine has 20 (2 to 8 rows, jax
0.10); stored `(F, D)` and multiplied to `(F, M)`, it reads 14 to 18. From 128 rows on the two are
equal. Other platforms choose layouts themselves.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

NARROW_ROWS = 64


class Linear(nnx.Linear):
    """`nnx.Linear` that `flip` may turn over; parameters and results are the same."""

    flipped = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., D)` -> `(..., F)` in the compute dtype."""
        if not self.flipped:
            return super().__call__(x)
        made = self.product(x.astype(self.dtype))
        return made if self.bias is None else made + self.bias[...].astype(self.dtype)

    def product(self, x: jax.Array, preferred: jnp.dtype | None = None) -> jax.Array:
        """Without the bias, in the dtype of `x`; sums and result in `preferred` if given."""
        kernel = self.kernel[...].astype(x.dtype)
        if not self.flipped:
            return jnp.einsum("...d,df->...f", x, kernel, preferred_element_type=preferred)
        x_MD = x.reshape(-1, x.shape[-1])

        def narrow(x_MD: jax.Array, kernel_FD: jax.Array) -> jax.Array:
            made_FM = jnp.einsum("md,fd->fm", x_MD, kernel_FD, preferred_element_type=preferred)
            # Else XLA folds the transpose into the product, which makes it the other one again.
            return jax.lax.optimization_barrier(made_FM).T

        def plain(x_MD: jax.Array, kernel_FD: jax.Array) -> jax.Array:
            return jnp.einsum("md,fd->mf", x_MD, kernel_FD, preferred_element_type=preferred)

        made_MF = jax.lax.platform_dependent(x_MD, kernel, cpu=narrow, default=plain)
        return made_MF.reshape(*x.shape[:-1], -1)


def flip(module: nnx.Module) -> None:
    """Stores the weights of all linear maps in a module `(F, D)`, for products of few rows.

    The module is changed: call this on a copy made for one program. Weights stacked over layers
    are left as they are.
    """
    for _, part in nnx.iter_graph(module):
        if isinstance(part, Linear) and part.kernel[...].ndim == 2 and not part.flipped:
            part.kernel = nnx.Param(part.kernel[...].T)
            part.flipped = True
