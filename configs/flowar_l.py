"""FlowAR-L, class-conditional ImageNet at 256 px: `flowar_s.py` with another size and flow head.

    python -m gen.train --config configs/flowar_l.py --workdir runs/flowar_l --config.data.dir=DIR

Data as for `flowar_s.py`. Hardware: 4 nodes of 8 GPUs in the authors' command, with recomputation
of the stacks. Parameters, their average and moments take 9.4 GB (7.0 GB without the average) over
the fsdp x tensor devices. We have not run it. Expected (README of the reference): FID 1.90.
586,862,912 parameters.
"""

from flowar_s import sized
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    head = {"kind": "cross", "depth": 12, "width": 1024, "heads": 16}
    options = {"num_steps": 25, "guided_below": 0.9}
    return sized(8, 1024, 16, head, guidance=2.4, options=options, remat=True)
