"""LlamaGen-B, class-conditional ImageNet (Sun et al. 2024, arXiv 2406.06525).

    python -m gen.train --config configs/llamagen_b.py:384 --config.data.dir=DIR --workdir RUN

Argument: image size, 256 (16x16 tokens, the default) or 384 (24x24). Add `,debug` to try it.
Data: VQ-16 tokens of ImageNet, ten crops each, as `imagenet256_vq16` or `imagenet384_vq16`.
Hardware: the authors used A100 80GB GPUs at a global batch of 256. Parameters and moments take
12 bytes per parameter, 1.3 GB over the fsdp x tensor devices. We have not run it to the end.
Expected (published): FID 5.46 at 256 px, 6.09 when sampled at 384 px, guidance 2.0 (table of
the FoundationVision/LlamaGen README). 110,888,448 parameters.
"""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # ImageNet-1k training set


def get_config(size: str = "256") -> ConfigDict:
    side = {"256": 16, "384": 24}[size]
    batch_size = 256
    return ConfigDict(
        {
            "family": "next_token",
            "model": {
                "grid": (side, side),
                "vocab_size": 16384,  # VQ-16 codebook
                "condition": {"kind": "class", "num_classes": 1000, "drop_rate": 0.1},
                # gpt.py: GPT_B, and the dropouts of ModelArgs
                "backbone": {"depth": 12, "width": 768, "heads": 12},
            },
            "data": {"name": f"imagenet{size}_vq16", "train": "train"},
            # train_c2i.py: constant rate 1e-4, betas (0.9, 0.95), decay 0.05, clip 1.0,
            # no EMA by default
            "optim": {"lr": 1e-4, "weight_decay": 0.05, "clip_norm": 1.0},
            "train": {
                "steps": 300 * IMAGES // batch_size,  # 300 epochs = 1,501,367 steps
                "batch_size": batch_size,
                "dtype": "bfloat16",
                "log_every": 100,
                "save_every": 5000,
            },
            # sample_c2i_ddp.py: no filters, temperature 1; guidance of the FID table
            "sample": {"guidance": 2.0, "top_k": 0, "top_p": 1.0, "temperature": 1.0},
        }
    )
