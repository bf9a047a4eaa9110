"""NAR-video-S, class-conditional UCF-101 (He et al. 2025, arXiv 2503.10696).

    python -m gen.train --config configs/nar_video_s.py --config.data.dir=DIR --workdir RUN

Data: LARP-L-long tokens of 16 frames of 128x128 pixels, 4x16x16 per clip, as `ucf101_larp`; the
34 steps take them for a lattice, though the tokenizer orders them in no way. `:debug` tries it.
Hardware: the authors' command is for one machine of 8 GPUs, at a batch of 32. Parameters and
moments take 12 bytes per parameter, 0.5 GB over the fsdp x tensor devices. We have not run it to
the end. Expected: the reference trains the L size and gives no FVD of any. 37,800,192 parameters.
"""

from ml_collections import ConfigDict

CLIPS = 9537  # UCF-101 training split


def get_config() -> ConfigDict:
    batch_size = 32
    return ConfigDict(
        {
            "family": "next_neighbour",
            "model": {
                "grid": (4, 16, 16),
                "vocab_size": 8192,  # LARP codebook
                "condition": {"kind": "class", "num_classes": 101, "drop_rate": 0.1},
                # larp_ar.py: llama-abs-S, two blocks more for the second and third head
                "backbone": {"depth": 12 + 2, "width": 384, "heads": 6},
                "head_blocks": 1,
                "positions": "learned",
            },
            "data": {"name": "ucf101_larp", "train": "train"},
            # train_larp_ar.sh: 4 of 1000 epochs of warm-up (from a hundredth of the rate; ours
            # starts lower), cosine to a hundredth, no clipping
            "optim": {
                "lr": 6e-4,
                "schedule": "cosine",
                "warmup_steps": 4 * CLIPS // batch_size,
                "final_lr": 6e-6,
                "weight_decay": 0.05,
                "no_decay": ("norm", "embed", "positions"),  # linear maps alone decay
                "clip_norm": 1e9,
            },
            "train": {
                "steps": 1000 * CLIPS // batch_size,  # 298,031 steps
                "batch_size": batch_size,
                "dtype": "bfloat16",
                "log_every": 100,
                "save_every": 5000,
            },
            "sample": {"guidance": 2.5, "top_k": 0, "top_p": 1.0, "temperature": 1.0},
        }
    )
