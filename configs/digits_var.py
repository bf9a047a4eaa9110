"""VAR on the UCI digits: four scales up to 8x8 pixels of 17 gray levels, four network calls.

    python -m gen.train --config configs/digits_var.py --workdir runs/digits_var

Hardware: two CPU cores. Cost: 293 CPU seconds, with scoring and sampling.
Tokens are made from the images by VAR's residual quantiser with fixed codes, a gray level apart and
without its convolutions: 1 + 4 + 16 + 64 tokens, from which rounding gives every image back. Bits
per dim are the nats of all 85 over 64 pixels: an upper bound, as the tokens are one of several
ways to write an image.
Expected on the 297 test images: 2.34 bits/dim (next token: 1.68). 1500 samples at temperature 1,
unguided: class accuracy 0.95, two-sample test 0.72 (0.5 is perfect), no copies of training images,
memorisation ratio 1.08; at guidance 2: class accuracy 0.98.
316,089 parameters.
`:msvq` takes the tokens of configs/digits_msvq.py instead, once `gen.encode digits --tokenizer FILE
--name digits_msvq` has made them; it also needs `--tokenizer FILE`.
"""

from digits_llamagen import get_config as base
from digits_msvq import QUANTIZER
from ml_collections import ConfigDict


def get_config(tokens: str = "pixels") -> ConfigDict:
    config = base()
    config.family = "next_scale"
    config.model = ConfigDict(
        {
            "gray_levels": 17,
            "quantizer": {
                "codebook_size": 41,  # a gray level apart, from -20 to 20
                "codebook_dim": 1,
                "scales": ((1, 1), (2, 2), (4, 4), (8, 8)),
                "mixing": 0.0,
            },
            "condition": {"kind": "class", "num_classes": 10, "drop_rate": 0.1},
            "backbone": {
                "depth": 4,
                "width": 64,
                "heads": 4,
                "init_std": 0.1,
                "gate_init": 1.0,
                "unroll": 4,
                "drop_path": 0.15,
            },
        }
    )
    # Which code makes up for the latent so far is a sharp function: dropout and decay of 0.3 blunt
    # it. Half the batch takes a third of the time on two cores, and twice as many steps help.
    config.optim.weight_decay = 0.2
    config.optim.clip_norm = 2.0
    config.train.batch_size = 8
    config.train.steps = 5600
    config.train.eval_every = config.train.save_every = 1400
    config.data.shift.steps = 2800
    if tokens != "pixels":  # the scores of samples are those of gray levels
        config.model.gray_levels, config.model.quantizer = 0, {"msvq": QUANTIZER}[tokens]
        config.data.name, config.data.shift, config.eval.scores = "digits_msvq", ConfigDict(), ()
    return config
