"""Tokenizers: pixels <-> tokens, with their weights.

`load` reads a file that `save` or `python -m gen.convert` wrote; `TOKENIZERS` has the kinds.
"""

from gen.tokenizers.base import Tokenizer
from gen.tokenizers.files import TOKENIZERS, load, save
from gen.tokenizers.kl import KLConfig, KLTokenizer
from gen.tokenizers.maskgit_vq import MaskGITVQConfig, MaskGITVQTokenizer
from gen.tokenizers.msvq import MSVQConfig, MSVQTokenizer
from gen.tokenizers.vq import VQConfig, VQTokenizer

__all__ = [
    "TOKENIZERS",
    "KLConfig",
    "KLTokenizer",
    "MSVQConfig",
    "MSVQTokenizer",
    "MaskGITVQConfig",
    "MaskGITVQTokenizer",
    "Tokenizer",
    "VQConfig",
    "VQTokenizer",
    "load",
    "save",
]
