"""LlamaGen-3B, class-conditional ImageNet (Sun et al. 2024, arXiv 2406.06525).

    python -m gen.train --config configs/llamagen_3b.py:384 --config.data.dir=DIR --workdir RUN

Argument, data, recipe and hardware as in llamagen_b.py, but for the size; parameters and moments
take 37.2 GB over the fsdp x tensor devices. We have not run it to the end.
Expected (published): FID 2.18 when sampled at 384 px, guidance 1.65
(FoundationVision/LlamaGen README). 3,096,659,200 parameters.
"""

from llamagen_b import get_config as base
from ml_collections import ConfigDict


def get_config(size: str = "384") -> ConfigDict:
    config = base(size)
    config.model.backbone.update(depth=24, width=3200, heads=32)  # gpt.py: GPT_3B
    config.sample.guidance = 1.65
    return config
