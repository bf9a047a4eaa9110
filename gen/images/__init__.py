"""Pixels from users' own files: sources of images and videos, and how they are cut.

`source.Images` is the contract, of which `digits`, `folder`, `tfds` and `videos` have a kind each;
`cut.Cut` cuts what they give to the size of a tokenizer, as the functions in `crops` do it.
"""

from gen.images.cut import Cut
from gen.images.digits import DigitImages
from gen.images.folder import ImageFolder
from gen.images.source import BadImage, Images
from gen.images.tfds import TFDSImages
from gen.images.videos import VideoFolder

__all__ = [
    "BadImage",
    "Cut",
    "DigitImages",
    "ImageFolder",
    "Images",
    "TFDSImages",
    "VideoFolder",
]
