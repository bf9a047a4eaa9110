"""Training of tokenizers: what is added to an encoder, a quantiser and a decoder to learn them.

`TRAINABLE` has the kinds that can be trained, by name, with how each quantises in training.
"""

from gen.autoencoding.learner import TokenizerLearner, blank
from gen.autoencoding.losses import LossConfig
from gen.autoencoding.quantised import TRAINABLE

__all__ = ["TRAINABLE", "LossConfig", "TokenizerLearner", "blank"]
