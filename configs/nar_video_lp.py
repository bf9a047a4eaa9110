"""NAR-video-LP, class-conditional UCF-101 (He et al. 2025, arXiv 2503.10696).

    python -m gen.train --config configs/nar_video_lp.py --config.data.dir=DIR --workdir RUN

Data, recipe and hardware as in nar_video_s.py, but for the size; parameters and moments take 8.3 GB
over the fsdp x tensor devices. We have not run it to the end.
Expected: the reference gives no FVD of this size. 693,588,480 parameters.
"""

from ml_collections import ConfigDict
from nar_video_s import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.model.backbone.update(depth=30 + 2, width=1280, heads=20)  # llama-abs-LP
    return config
