"""LlamaGen-L, class-conditional ImageNet (Sun et al. 2024, arXiv 2406.06525).

    python -m gen.train --config configs/llamagen_l.py:384 --config.data.dir=DIR --workdir RUN

Argument, data, recipe and hardware as in llamagen_b.py, but for the size; parameters and moments
take 4.1 GB over the fsdp x tensor devices. We have not run it to the end.
Expected (published): FID 3.80 at 256 px, 3.07 when sampled at 384 px, guidance 2.0
(FoundationVision/LlamaGen README). 342,910,976 parameters.
"""

from llamagen_b import get_config as base
from ml_collections import ConfigDict


def get_config(size: str = "256") -> ConfigDict:
    config = base(size)
    config.model.backbone.update(depth=24, width=1024, heads=16)  # gpt.py: GPT_L
    config.sample.guidance = 2.0
    return config
