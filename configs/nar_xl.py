"""NAR-XL, class-conditional ImageNet (He et al. 2025, arXiv 2503.10696).

    python -m gen.train --config configs/nar_xl.py:256 --config.data.dir=DIR --workdir RUN

Argument, data, recipe and hardware as in nar_b.py, but for the size; parameters and moments take
9.8 GB over the fsdp x tensor devices. We have not run it to the end.
Expected: the ThisisBillhe/NAR README gives no FID of this size. 815,991,040 parameters.
"""

from ml_collections import ConfigDict
from nar_b import get_config as base


def get_config(size: str = "256") -> ConfigDict:
    config = base(size)
    config.model.backbone.update(depth=36 + 1, width=1280, heads=20)  # gpt.py: GPT_XL
    return config
