"""VAR-d16, class-conditional ImageNet at 256 px (Tian et al. 2024, arXiv 2404.02905).

    python -m gen.train --config configs/var_d16.py --tokenizer FILE --config.data.dir=DIR

Data: tokens of VAR's tokenizer (680 per image, ten scales), random crops, as `imagenet256_var`.
`gen.convert var-vqvae` writes the tokenizer FILE, whose codes the model computes with. Add
`:debug` to try the config alone.
Hardware: the authors' command is for nodes of 8 GPUs, at a global batch of 768. Parameters and
moments take 12 bytes per parameter, 3.7 GB over the fsdp x tensor devices. We have not run it to
the end. Expected (published): FID 3.55 (table of the FoundationVision/VAR README).
310,283,520 parameters.
"""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # ImageNet-1k training set
SIDES = {"256": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), "512": (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}


def sized(depth, *, epochs, gates, batch_size=768, base_lr=8e-5, last_lr=0.01, size="256"):
    """The recipe at a depth: `gates` is `--alng`, `last_lr` is `--wpe`, `base_lr` is `--tblr`."""
    steps, lr = epochs * IMAGES // batch_size, base_lr * batch_size / 256
    return ConfigDict(
        {
            "family": "next_scale",
            "model": {
                "quantizer": {  # vae_ch160v4096z32.pth
                    "codebook_size": 4096,
                    "codebook_dim": 32,
                    "scales": tuple((side, side) for side in SIDES[size]),
                },
                "condition": {"kind": "class", "num_classes": 1000, "drop_rate": 0.1},
                # build_vae_var: heads of 64 channels, and as many of them as blocks
                "backbone": {
                    "depth": depth,
                    "width": 64 * depth,
                    "heads": depth,
                    "gate_init": gates,
                    "drop_path": 0.1 * depth / 24,
                },
            },
            "data": {"name": f"imagenet{size}_var", "train": "train"},
            # The reference starts its warm-up at 0.005 of the rate, ours at 1 / warmup_steps, and
            # stays at the peak for another 5% of the steps before the rate falls.
            "optim": {
                "lr": lr,
                "schedule": "linear",
                "warmup_steps": steps // 50,
                "final_lr": last_lr * lr,
                "clip_norm": 2.0,
                # what filter_params leaves out, under our names
                "no_decay": ("bias", "positions", "start", "levels", "offsets", "log_scale"),
            },
            "train": {"steps": steps, "batch_size": batch_size, "log_every": 100},
            "sample": {"guidance": 1.5, "top_k": 900, "top_p": 0.96},  # of the FID figures
        }
    )


def get_config() -> ConfigDict:
    return sized(16, epochs=200, gates=1e-3, base_lr=1e-4, last_lr=0.1)
