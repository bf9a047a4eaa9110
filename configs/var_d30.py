"""VAR-d30, class-conditional ImageNet at 256 px (Tian et al. 2024, arXiv 2404.02905).

    python -m gen.train --config configs/var_d30.py --tokenizer FILE --config.data.dir=DIR

Tokenizer, data, recipe and hardware as in var_d16.py, but for the size; parameters and moments take
24.1 GB over the fsdp x tensor devices. We have not run it to the end.
Expected (published): FID 1.97 (1.80 with rejection sampling) (FoundationVision/VAR README).
2,010,020,356 parameters.
"""

from ml_collections import ConfigDict
from var_d16 import sized


def get_config() -> ConfigDict:
    # The reference lets the weight decay rise from 0.05 to 0.08; here it stays.
    return sized(30, epochs=350, gates=1e-5, batch_size=1024)
