"""NAR-video-L, class-conditional UCF-101 (He et al. 2025, arXiv 2503.10696).

    python -m gen.train --config configs/nar_video_l.py --config.data.dir=DIR --workdir RUN

Data, recipe and hardware as in nar_video_s.py, but for the size; parameters and moments take 4.4 GB
over the fsdp x tensor devices. We have not run it to the end.
Expected: this is the size that the reference trains; its README gives no FVD. 368,736,256
parameters.
"""

from ml_collections import ConfigDict
from nar_video_s import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.model.backbone.update(depth=24 + 2, width=1024, heads=16)  # llama-abs-L
    return config
