"""VAR's kind of tokenizer for the UCI digits: 8x8 pixels become 1 + 4 + 16 tokens of 128 codes.

    python -m gen.train --config configs/digits_msvq.py --workdir runs/digits_msvq

Hardware: two CPU cores. Cost: 220 CPU seconds, about two minutes. Expected on the 297 test images:
26.0 dB at 2.3 bits a pixel, all codes in use, perplexity 109. 713,811 parameters.
"""

from digits_vq import get_config as base
from ml_collections import ConfigDict

QUANTIZER = {
    "codebook_size": 128,
    "codebook_dim": 8,
    "scales": ((1, 1), (2, 2), (4, 4)),
    "num_mixers": 3,
}


def get_config() -> ConfigDict:
    config = base()
    config.tokenizer = "msvq"
    config.model = ConfigDict(
        {
            "quantizer": QUANTIZER,
            "width": 32,
            "multipliers": (1, 2),
            "blocks_per_level": 1,
            "kernel_size": 1,
            "norm_groups": 1,
            "norm_eps": 1.0,
        }
    )
    return config
