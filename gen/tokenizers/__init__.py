"""Tokenizers: pixels <-> tokens, with their weights.

`load` reads a file that `save` or `python -m gen.convert` wrote; `TOKENIZERS` has the kinds.
"""

from gen.tokenizers.base import Tokenizer
from gen.tokenizers.files import TOKENIZERS, load, save
from gen.tokenizers.kl import KLConfig, KLTokenizer
from gen.tokenizers.maskgit_vq import MaskGITVQConfig, MaskGITVQTokenizer
from gen.tokenizers.msvq import MSVQConfig, MSVQTokenizer
from gen.tokenizers.titok import ProxyConfig, TiTokConfig, TiTokTokenizer
from gen.tokenizers.vq import VQConfig, VQTokenizer
from gen.tokenizers.vq3d import MAGVITConfig, MAGVITTokenizer

__all__ = [
    "TOKENIZERS",
    "KLConfig",
    "KLTokenizer",
    "MAGVITConfig",
    "MAGVITTokenizer",
    "MSVQConfig",
    "MSVQTokenizer",
    "MaskGITVQConfig",
    "MaskGITVQTokenizer",
    "ProxyConfig",
    "TiTokConfig",
    "TiTokTokenizer",
    "Tokenizer",
    "VQConfig",
    "VQTokenizer",
    "load",
    "save",
]
