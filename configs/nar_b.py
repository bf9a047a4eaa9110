"""NAR-B, class-conditional ImageNet (He et al. 2025, arXiv 2503.10696).

    python -m gen.train --config configs/nar_b.py:256 --config.data.dir=DIR --workdir RUN

Argument: image size, 256 (16x16 tokens in 31 steps, the default, as published), 384 (24x24 in 47)
or 512 (32x32 in 63). Add `,debug` to try it.
Data: VQ-16 tokens of ImageNet, ten crops each, as `imagenet256_vq16` and so on.
Hardware: the authors used A100 GPUs at a global batch of 256. Parameters and moments take
12 bytes per parameter, 1.6 GB over the fsdp x tensor devices. We have not run it to the end.
Expected: the ThisisBillhe/NAR README gives no FID of this size. 130,551,552 parameters.
"""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # ImageNet-1k training set


def get_config(size: str = "256") -> ConfigDict:
    side = {"256": 16, "384": 24, "512": 32}[size]
    batch_size = 256
    return ConfigDict(
        {
            "family": "next_neighbour",
            "model": {
                "grid": (side, side),
                "vocab_size": 16384,  # VQ-16 codebook
                "condition": {"kind": "class", "num_classes": 1000, "drop_rate": 0.1},
                # gpt.py: GPT_B, one block more for the second head, and the dropouts of ModelArgs
                "backbone": {"depth": 12 + 1, "width": 768, "heads": 12},
                "head_blocks": 1,  # medusa_attention_num
            },
            "data": {"name": f"imagenet{size}_vq16", "train": "train"},
            # train_c2i.py: betas (0.9, 0.95), decay 0.05 on all but norms, clip 1.0, no EMA by
            # default. Its rate falls to a fifth after 1/2, 2/3 and 5/6 of the epochs; the cosine
            # ends where it does.
            "optim": {
                "lr": 1e-4,
                "schedule": "cosine",
                "final_lr": 1e-4 * 0.2**3,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 300 * IMAGES // batch_size,  # 300 epochs = 1,501,367 steps
                "batch_size": batch_size,
                "dtype": "bfloat16",
                "log_every": 100,
                "save_every": 5000,
            },
            # GETTING_STARTED.md of the reference
            "sample": {"guidance": 2.0, "top_k": 0, "top_p": 1.0, "temperature": 1.0},
        }
    )
