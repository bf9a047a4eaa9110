"""Pixels from users' own files: sources of images, and how they are cut.

`source.Images` is the contract, `folder.ImageFolder` and `digits.DigitImages` two of its kinds;
`crops` cuts what they give to the size of a tokenizer.
"""

from gen.images.digits import DigitImages
from gen.images.folder import ImageFolder
from gen.images.source import BadImage, Images

__all__ = ["BadImage", "DigitImages", "ImageFolder", "Images"]
