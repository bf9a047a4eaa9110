"""NAR-XL, text-conditional (He et al. 2025, arXiv 2503.10696).

    python -m gen.train --config configs/nar_t2i_xl.py:256 --config.data.dir=DIR --workdir RUN

Argument: image size, 256 (16x16 tokens, first stage, the default) or 512 (32x32, second stage:
add --init_from of the first). Add `,debug` to try it.
Data: VQ-16 tokens and flan-t5-xl features (120 x 2048, left-padded) of captioned images.
Hardware: the authors used A100 GPUs at a global batch of 512; parameters and moments take 9.8 GB.
We have not run it to the end. Expected: the README gives pictures, no figures.
818,969,600 parameters.
"""

from ml_collections import ConfigDict
from nar_xl import get_config as base

# Images and epochs: a subset of LAION-COCO, then text-to-image-2M (GETTING_STARTED.md).
STAGES = {"256": (4_000_000, 60), "512": (2_000_000, 40)}


def get_config(size: str = "256") -> ConfigDict:
    images, epochs = STAGES[size]
    config = base(size)
    config.model.condition = ConfigDict(
        # t5.py: flan-t5-xl features; gpt.py: cls_token_num 120, caption_dim 2048
        {"kind": "text", "caption_length": 120, "caption_dim": 2048, "drop_rate": 0.1}
    )
    config.data.name = f"captions{size}_vq16"
    # train_t2i_webdata.py: cosine, moved once per epoch
    config.optim.final_lr = 1e-6
    config.train.update(batch_size=512, steps=epochs * images // 512)
    config.sample.guidance = 7.5  # sample_t2i.py
    return config
