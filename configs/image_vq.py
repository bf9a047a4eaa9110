"""A tokenizer of any folder of images: 32x32 crops become an 8x8 grid of 4096 codes.

    python -m gen.train --config configs/image_vq.py --config.data.dir=FOLDER --workdir RUN

Hardware: two CPU cores. Cost: 900 CPU seconds, eight to nine minutes. Expected on held-out regions
of the seven photographs of tests/photographs.py: 29.1 dB at 0.75 bits a pixel, 29.6 dB at 1.0 bits.
Argument: `multiscale` makes it VAR's kind, of 1 + 4 + 16 + 64 tokens; `debug` needs no data.
Each tenth image of the folder is held out, or those of `--config.data.valid_dir=FOLDER`.
`--config.data.resize=256` first scales images to a shorter side of 256 pixels. The plain tokenizer
then takes images of any size in multiples of 4, the multi-scale one of its crops' size alone.
"""

from ml_collections import ConfigDict

PLAIN = {"codebook_size": 4096, "codebook_dim": 8, "z_channels": 32, "normalise_codes": False}
SCALES = ((1, 1), (2, 2), (4, 4), (8, 8))


def get_config(kind: str = "plain") -> ConfigDict:
    levels = (1, 2, 4)
    # Norms over all channels, and softened by their eps: how bright a crop is gets through them.
    stack = {"width": 16, "blocks_per_level": 1, "norm_groups": 1, "norm_eps": 1.0}
    tokenizer, model = {
        "plain": ("vq", PLAIN | {"encoder_multipliers": levels, "decoder_multipliers": levels}),
        "multiscale": (
            "msvq",
            {
                "quantizer": {"codebook_size": 4096, "codebook_dim": 8, "scales": SCALES},
                "multipliers": levels,
                "kernel_size": 1,  # wider ones blur each cell's code with its neighbours'
            },
        ),
    }[kind]
    return ConfigDict(
        {
            "tokenizer": tokenizer,
            "model": stack | model,
            "loss": {
                "reconstruction": "l2",
                "codebook": "ema",
                "commitment": 0.25,
                "ema_decay": 0.995,
                # Codes that are worth nothing yet would draw the latents together.
                "quantise_after": 500,
            },
            "data": {"name": "folder", "size": (32, 32)},
            "optim": {
                "lr": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 50,
                "beta2": 0.99,
                "weight_decay": 0.0,
                "ema_decay": 0.99,
            },
            "train": {
                "steps": 8000,
                "batch_size": 4,  # many small steps learn more than few large ones
                "dtype": "float32",
                "log_every": 100,
                "eval_every": 1000,
                "save_every": 2000,
            },
        }
    )
