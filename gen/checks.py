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


def check_tokens(layout: Layout, tokens: np.ndarray) -> np.ndarray:
    """Tokens as int32 of the layout's shape; a wrong id never raises inside the model."""
    tokens = np.asarray(tokens)
    if tokens.ndim == 0 or tokens.shape[1:] != layout.sample_shape or not len(tokens):
        raise UserError(f"tokens must have shape (B, {layout.num_positions}), not {tokens.shape}")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(f"tokens must be integers, not {tokens.dtype}")
    if tokens.min() < 0 or tokens.max() >= max(layout.vocab_sizes):
        raise UserError(
            f"token ids lie in [0, {max(layout.vocab_sizes)}), "
            f"found {tokens.min()} to {tokens.max()}"
        )
    return tokens.astype(np.int32)


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
