"""MaskGIT, class-conditional ImageNet at 256 px (Chang et al. 2022, arXiv 2202.04200).

    python -m gen.train --config configs/maskgit_256.py --config.data.dir=DIR --workdir RUN

Add `:debug` to try it. Data: 16x16 tokens of MaskGIT's tokenizer (f16, 1024 codes) as
`imagenet256_maskgit`. Hardware: parameters and moments take 12 bytes per parameter, 2.1 GB over the
fsdp x tensor devices, and the average 4 more. Values are those of the config in
google-research/maskgit; its training code is not published, the loss is that of the paper. We have
not run it to the end, and its cost is not measured.
Expected (published): FID 6.18 in 8 steps (paper), 6.06 (README), unguided.
172,457,193 parameters.
"""

from ml_collections import ConfigDict

STEPS = {16: 8, 32: 12}  # of sampling, by side


def sized(side: int) -> ConfigDict:
    """The recipe for images of side x side tokens."""
    return ConfigDict(
        {
            "family": "masked",
            "model": {
                "grid": (side, side),
                "vocab_size": 1024,
                # No null class: a model to be guided needs drop_rate 0.1, which is not published.
                "condition": {"kind": "class", "num_classes": 1000, "drop_rate": 0.0},
                "backbone": {"depth": 24, "width": 768, "heads": 16, "ffn_width": 3072},
                "label_smoothing": 0.1,
                "mask_schedule": "cosine",
                "min_mask_ratio": 0.5,  # min_masking_rate; the code that reads it is not published
            },
            "data": {"name": f"imagenet{16 * side}_maskgit", "train": "train"},
            "optim": {
                "lr": 1e-4,
                "warmup_steps": 5000,
                "beta2": 0.96,
                "weight_decay": 0.045,
                "clip_norm": 1e9,  # none
                "ema_decay": 0.999,
            },
            "train": {
                "steps": 2_000_000,
                "batch_size": 256,
                "dtype": "bfloat16",
                "log_every": 100,
                "save_every": 5000,
            },
            "sample": {"options": {"num_steps": STEPS[side], "choice_temperature": 4.5}},
        }
    )


def get_config() -> ConfigDict:
    return sized(16)
