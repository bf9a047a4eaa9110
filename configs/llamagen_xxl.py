"""LlamaGen-XXL, class-conditional ImageNet (Sun et al. 2024, arXiv 2406.06525).

    python -m gen.train --config configs/llamagen_xxl.py:384 --config.data.dir=DIR --workdir RUN

Argument, data, recipe and hardware as in llamagen_b.py, but for the size; parameters and moments
take 16.9 GB over the fsdp x tensor devices. We have not run it to the end.
Expected (published): FID 2.34 when sampled at 384 px, guidance 1.75
(FoundationVision/LlamaGen README). 1,410,972,672 parameters.
"""

from llamagen_b import get_config as base
from ml_collections import ConfigDict


def get_config(size: str = "384") -> ConfigDict:
    config = base(size)
    config.model.backbone.update(depth=48, width=1536, heads=24)  # gpt.py: GPT_XXL
    config.sample.guidance = 1.75
    return config
