"""VAR-d20, class-conditional ImageNet at 256 px (Tian et al. 2024, arXiv 2404.02905).

    python -m gen.train --config configs/var_d20.py --tokenizer FILE --config.data.dir=DIR

Tokenizer, data, recipe and hardware as in var_d16.py, but for the size; parameters and moments
take 7.2 GB over the fsdp x tensor devices. We have not run it to the end.
Expected (published): FID 2.95 (FoundationVision/VAR README). 600,917,136 parameters.
"""

from ml_collections import ConfigDict
from var_d16 import sized


def get_config() -> ConfigDict:
    return sized(20, epochs=250, gates=1e-3, base_lr=1e-4, last_lr=0.1)
