"""LlamaGen-XL, class-conditional ImageNet (Sun et al. 2024, arXiv 2406.06525).

    python -m gen.train --config configs/llamagen_xl.py:384 --config.data.dir=DIR --workdir RUN

Argument, data, recipe and hardware as in llamagen_b.py, but for the size; parameters and moments
take 9.3 GB over the fsdp x tensor devices. We have not run it to the end.
Expected (published): FID 2.62 when sampled at 384 px, guidance 1.75
(FoundationVision/LlamaGen README). 774,699,520 parameters.
"""

from llamagen_b import get_config as base
from ml_collections import ConfigDict


def get_config(size: str = "384") -> ConfigDict:
    config = base(size)
    config.model.backbone.update(depth=36, width=1280, heads=20)  # gpt.py: GPT_XL
    config.sample.guidance = 1.75
    return config
