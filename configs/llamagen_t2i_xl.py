"""LlamaGen-XL, text-conditional (Sun et al. 2024, arXiv 2406.06525).

    python -m gen.train --config configs/llamagen_t2i_xl.py:256 --config.data.dir=DIR --workdir RUN

Argument: image size, 256 (16x16 tokens, first stage, the default) or 512 (32x32, second stage:
add --init_from of the first). Add `,debug` to try it.
Data: VQ-16 tokens and flan-t5-xl features (120 x 2048, left-padded) of captioned images.
Hardware and recipe as llamagen_b.py; parameters and moments take 9.3 GB. We have not run it to the
end. Expected: the paper gives pictures, no FID. 777,678,080 parameters.
"""

from llamagen_b import get_config as base
from ml_collections import ConfigDict

IMAGES = {"256": 50_000_000, "512": 10_000_000}  # LAION-COCO subset; internal set of stage 2


def get_config(size: str = "256") -> ConfigDict:
    side = {"256": 16, "512": 32}[size]
    config = base()
    config.model.grid = (side, side)
    config.model.backbone.update(depth=36, width=1280, heads=20)  # gpt.py: GPT_XL
    config.model.condition = ConfigDict(
        # t5.py: flan-t5-xl features; gpt.py: cls_token_num 120, caption_dim 2048
        {"kind": "text", "caption_length": 120, "caption_dim": 2048, "drop_rate": 0.1}
    )
    config.data.name = f"captions{size}_vq16"
    config.train.steps = IMAGES[size] // config.train.batch_size  # one epoch
    # sample_t2i.py: guidance 7.5, top-k 1000
    config.sample.update(guidance=7.5, top_k=1000)
    return config
