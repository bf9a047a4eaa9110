"""MaskGIT, class-conditional ImageNet at 512 px (Chang et al. 2022, arXiv 2202.04200).

    python -m gen.train --config configs/maskgit_512.py --config.data.dir=DIR --workdir RUN

Recipe and hardware as in maskgit_256.py, for 32x32 tokens of the same tokenizer as
`imagenet512_maskgit`; parameters and moments take 2.1 GB over the fsdp x tensor devices. We have
not run it to the end. Expected (published): FID 7.32 in 12 steps, unguided.
173,047,017 parameters.
"""

from maskgit_256 import sized
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return sized(32)
