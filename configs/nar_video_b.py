"""NAR-video-B, class-conditional UCF-101 (He et al. 2025, arXiv 2503.10696).

    python -m gen.train --config configs/nar_video_b.py --config.data.dir=DIR --workdir RUN

Data, recipe and hardware as in nar_video_s.py, but for the size; parameters and moments take 1.5 GB
over the fsdp x tensor devices. We have not run it to the end.
Expected: the reference gives no FVD of this size. 125,145,600 parameters.
"""

from ml_collections import ConfigDict
from nar_video_s import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.model.backbone.update(depth=12 + 2, width=768, heads=12)  # llama-abs-B
    return config
