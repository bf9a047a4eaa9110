"""FlowAR-S, class-conditional ImageNet at 256 px (Ren et al. 2025, arXiv 2412.15205).

    python -m gen.train --config configs/flowar_s.py --workdir runs/flowar_s --config.data.dir=DIR

Data: moments of MAR's KL-16 tokenizer, 16x16 cells of 2 x 16 channels, as `imagenet256_kl16`; a
latent is drawn anew at each visit and multiplied by 0.2325. The reference encodes random crops and
flips of images resized to 288 px; moments of several such versions per image serve as well.
Hardware: the authors' command is for 4 nodes of 8 GPUs, at a global batch of 2048. Parameters,
their average and moments take 16 bytes per parameter, 2.7 GB (2.1 GB without the average) over the
fsdp x tensor devices. We have not run it. Expected (paper): FID 3.61.
171,718,072 parameters.
"""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # ImageNet-1k training set
BATCH, EPOCHS, WARMUP_EPOCHS = 2048, 400, 100


def sized(depth, width, heads, head, *, guidance, options, remat=False):
    """The recipe for two stacks of a depth and width and a flow head."""
    stack = {
        "depth": depth,
        "width": width,
        "heads": heads,
        "attention_dropout": 0.1,
        "dropout": 0.1,
        "remat": remat,
    }
    return ConfigDict(
        {
            "family": "flow_scale",
            "model": {
                "scales": tuple((side, side) for side in (1, 2, 4, 8, 16)),
                "latents": {"channels": 16, "moments": True, "scale": 0.2325},
                "condition": {"kind": "class", "num_classes": 1000, "drop_rate": 0.1},
                "encoder": stack,
                "decoder": stack,
                "head": head,
            },
            "data": {"name": "imagenet256_kl16", "train": "train"},
            "optim": {
                "lr": 4e-4,  # 5e-5 per 256 images
                "schedule": "cosine",
                "warmup_steps": WARMUP_EPOCHS * IMAGES // BATCH,
                "final_lr": 1e-5,
                "weight_decay": 0.02,
                "clip_norm": 3.0,
                "ema_decay": 0.9999,
            },
            "train": {
                "steps": EPOCHS * IMAGES // BATCH,
                "batch_size": BATCH,
                "dtype": "float32",  # the reference switches autocasting off
                "log_every": 100,
            },
            "sample": {"guidance": guidance, "options": options},  # of the FID figures
        }
    )


def get_config() -> ConfigDict:
    head = {"kind": "adaptive", "depth": 2, "width": 1024, "heads": 16}
    return sized(6, 768, 12, head, guidance=4.3, options={"num_steps": 25, "guided_below": 0.9})
