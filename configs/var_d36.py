"""VAR-d36-s, class-conditional ImageNet at 512 px (Tian et al. 2024, arXiv 2404.02905).

    python -m gen.train --config configs/var_d36.py --tokenizer FILE --config.data.dir=DIR

Data: 2240 tokens per image, as `imagenet512_var`; the blocks share one AdaLN map. Tokenizer,
recipe and hardware as in var_d16.py, but for the size; parameters and moments take 28.2 GB over the
fsdp x tensor devices. We have not run it to the end.
Expected (published): FID 2.63 (FoundationVision/VAR README). 2,353,893,904 parameters.
"""

from ml_collections import ConfigDict
from var_d16 import sized


def get_config() -> ConfigDict:
    # The reference lets the weight decay rise from 0.05 to 0.08; here it stays.
    config = sized(36, epochs=350, gates=5e-6, size="512")
    config.model.backbone.shared = True  # --saln
    return config
