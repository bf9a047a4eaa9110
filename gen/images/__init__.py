"""Pixels from users' own files: sources of images, and how they are cut.

`source.Images` is the contract, `folder.ImageFolder` and `digits.DigitImages` two of its kinds;
`cut.Cut` cuts what they give to the size of a tokenizer, as the functions in `crops` do it.
"""

from gen.images.cut import Cut
from gen.images.digits import DigitImages
from gen.images.folder import ImageFolder
from gen.images.source import BadImage, Images

__all__ = ["BadImage", "Cut", "DigitImages", "ImageFolder", "Images"]
