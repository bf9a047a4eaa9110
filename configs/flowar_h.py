"""FlowAR-H, class-conditional ImageNet at 256 px: `flowar_s.py` with another size and flow head.

    python -m gen.train --config configs/flowar_h.py --workdir runs/flowar_h --config.data.dir=DIR

Data as for `flowar_s.py`. Hardware: 8 nodes of 8 GPUs in the authors' command, with recomputation
of the stacks. Parameters, their average and moments take 30.6 GB (23.0 GB without the average) over
the fsdp x tensor devices. We have not run it. Expected (README of the reference): FID 1.65.
1,913,316,880 parameters.
"""

from flowar_s import sized
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    head = {"kind": "cross", "depth": 12, "width": 1536, "heads": 24}
    options = {"num_steps": 50, "guided_below": 0.7}
    return sized(15, 1536, 16, head, guidance=2.4, options=options, remat=True)
