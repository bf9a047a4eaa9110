"""VAR-d24, class-conditional ImageNet at 256 px (Tian et al. 2024, arXiv 2404.02905).

    python -m gen.train --config configs/var_d24.py --tokenizer FILE --config.data.dir=DIR

Tokenizer, data, recipe and hardware as in var_d16.py, but for the size; parameters and moments take
12.4 GB over the fsdp x tensor devices. We have not run it to the end.
Expected (published): FID 2.33 (FoundationVision/VAR README). 1,033,399,360 parameters.
"""

from ml_collections import ConfigDict
from var_d16 import sized


def get_config() -> ConfigDict:
    return sized(24, epochs=350, gates=1e-4)
