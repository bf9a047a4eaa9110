"""What a caller hands to a generator, checked: a wrong id never raises inside a compiled model.

Axes: B samples, P positions, T caption slots, C caption channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gen.errors import UserError
from gen.layouts import Layout
from gen.models.conditioning import ConditionConfig

Captions = tuple[np.ndarray, np.ndarray | None]


def check_tokens(layout: Layout, tokens: np.ndarray, *, unknown: bool = False) -> np.ndarray:
    """Tokens as int32, or latents as float32, of the layout's shape.

    Args:
      layout: what they must be.
      tokens: `(B, *layout.sample_shape)`.
      unknown: -1 may stand for a token that is to be made.

    Raises:
      UserError: shape, dtype or a value does not fit; a wrong id never raises inside the model.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim == 0 or tokens.shape[1:] != layout.sample_shape or not len(tokens):
        wanted = ", ".join(["B", *map(str, layout.sample_shape)])
        raise UserError(f"tokens must have shape ({wanted}), not {tokens.shape}")
    if layout.is_continuous:
        if not np.issubdtype(tokens.dtype, np.floating) or not np.isfinite(tokens).all():
            raise UserError(f"latents must be finite floats, not {tokens.dtype} or NaN")
        return tokens.astype(np.float32)
    if not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(f"tokens must be integers, not {tokens.dtype}")
    limits_F, least = np.asarray(layout.vocab_sizes), -1 if unknown else 0
    if tokens.min() < least or (tokens >= (limits_F if len(limits_F) > 1 else limits_F[0])).any():
        raise UserError(
            f"token ids lie in [0, {max(layout.vocab_sizes)}), "
            f"found {tokens.min()} to {tokens.max()}"
        )
    return tokens.astype(np.int32)


def check_known(layout: Layout, known: np.ndarray | None, rows: int) -> np.ndarray | None:
    """Tokens to start from, -1 where one is to be made, for so many samples; or none."""
    if known is None:
        return None
    if layout.is_continuous:
        raise UserError("this kind of generator cannot start from known tokens")
    try:
        known = check_tokens(layout, known, unknown=True)
    except UserError as error:
        raise UserError(f"known {error}; -1 stands for a token to be made") from None
    if len(known) != rows:
        raise UserError(f"{len(known)} rows of known tokens for {rows} samples")
    return known


def check_labels(condition: ConditionConfig, num: int | None, labels: Sequence[int]) -> np.ndarray:
    """Labels as int32 `(B,)` within the classes; -1 is the null class of a model that has one."""
    num_classes, least = condition.num_classes, -1 if condition.has_null else 0
    array = np.atleast_1d(np.asarray(labels))
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"labels must be whole numbers of shape (B,), not {labels!r}")
    if array.min() < least or array.max() >= num_classes:
        raise UserError(f"labels lie in [0, {num_classes}), found {array.min()} to {array.max()}")
    array = np.where(array < 0, num_classes, array)
    if num is not None and num != len(array):
        raise UserError(f"{len(array)} labels for {num} samples")
    return array.astype(np.int32)


def check_captions(
    condition: ConditionConfig, num: int | None, captions: Captions
) -> dict[str, np.ndarray]:
    """Caption features `(B, T, C)` and validity `(B, T)`, all valid if none is given."""
    if not isinstance(captions, (tuple, list)) or len(captions) != 2:
        raise UserError("captions are a pair: features (B, T, C), and validity (B, T) or none")
    features, valid = captions
    try:
        features = np.asarray(features, np.float32)
    except (TypeError, ValueError):
        raise UserError("captions are features of a text encoder, not texts") from None
    wanted = (condition.caption_length, condition.caption_dim)
    if features.ndim != 3 or features.shape[1:] != wanted or not len(features):
        raise UserError(
            f"captions must have shape (B, {wanted[0]}, {wanted[1]}), not {features.shape}"
        )
    valid = np.ones(features.shape[:2], bool) if valid is None else np.asarray(valid).astype(bool)
    if valid.shape != features.shape[:2]:
        raise UserError(f"caption validity must have shape {features.shape[:2]}, not {valid.shape}")
    if not np.isfinite(features).all():
        raise UserError("captions hold values that are no numbers")
    if not valid.any(axis=1).all():
        raise UserError(f"caption {int(np.argmin(valid.any(axis=1)))} has no valid slot")
    if num is not None and num != len(features):
        raise UserError(f"{len(features)} captions for {num} samples")
    return {"caption": features, "caption_valid": valid}


def check_condition(
    condition: ConditionConfig,
    num: int | None,
    labels: Sequence[int] | None,
    captions: Captions | None,
    *,
    required: bool = False,
    null: bool = False,
    first: int = 0,
) -> dict[str, np.ndarray]:
    """The fields of a batch for `num` samples, or for as many as labels or captions are given.

    Without labels, and unless they are `required`, a class model gets its classes in turn: the
    sample of number i, counted from `first`, is of class i mod classes. `null` asks for the null
    condition, which must be there.

    Raises:
      UserError: what is given does not fit the model, or too little is.
    """
    if null and not condition.has_null:
        raise UserError("this model has no null condition (drop_rate 0)")
    if condition.kind == "text":
        if captions is None or labels is not None:
            raise UserError("this is a text model: give captions, not labels")
        return check_captions(condition, num, captions)
    if captions is not None or (labels is None and required):
        raise UserError("this is a class model: give labels, not captions")
    if labels is None:
        if num is None or num < 1:
            raise UserError("give labels, or the number of samples (at least 1)")
        labels = (first + np.arange(num)) % condition.num_classes
    return {"label": check_labels(condition, num, labels)}
