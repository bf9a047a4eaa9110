"""NAR-L, class-conditional ImageNet (He et al. 2025, arXiv 2503.10696).

    python -m gen.train --config configs/nar_l.py:256 --config.data.dir=DIR --workdir RUN

Argument, data, recipe and hardware as in nar_b.py, but for the size; parameters and moments take
4.5 GB over the fsdp x tensor devices. We have not run it to the end.
Expected: the ThisisBillhe/NAR README gives no FID of this size. 372,536,320 parameters.
"""

from ml_collections import ConfigDict
from nar_b import get_config as base


def get_config(size: str = "256") -> ConfigDict:
    config = base(size)
    config.model.backbone.update(depth=24 + 1, width=1024, heads=16)  # gpt.py: GPT_L
    return config
