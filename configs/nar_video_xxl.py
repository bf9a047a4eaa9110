"""NAR-video-XXL, class-conditional UCF-101 (He et al. 2025, arXiv 2503.10696).

    python -m gen.train --config configs/nar_video_xxl.py --config.data.dir=DIR --workdir RUN

Data, recipe and hardware as in nar_video_s.py, but for the size; parameters and moments take 17.6
GB over the fsdp x tensor devices. We have not run it to the end.
Expected: the reference gives no FVD of this size. 1,467,798,528 parameters.
"""

from ml_collections import ConfigDict
from nar_video_s import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.model.backbone.update(depth=48 + 2, width=1536, heads=24)  # llama-abs-XXL
    return config
