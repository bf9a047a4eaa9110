"""Parameter counts equal those of the published models, by shapes alone."""

import re

import pytest

from gen import config as configs
from gen.families import FAMILIES
from gen.families.base import count_parameters
from tests import tiny

IDS, CLASSES = 4096, 1000


def var(depth: int, length: int, *, shared: bool = False) -> int:
    """Parameters of VAR without its quantiser, which belongs to the tokenizer and is not trained.

    Width 64 per block, 10 scales of `length` positions in all, codes of 32 channels.
    """
    d, scales, channels = 64 * depth, 10, 32
    modulation = 6 * d * d + 6 * d  # to the gates, scales and shifts of a block
    attention = 3 * d * d + 2 * d + d * d + d + depth  # a bias but for keys; sharpness per head
    feed_forward = 4 * d * d + 4 * d + 4 * d * d + d
    block = attention + feed_forward + (6 * d if shared else modulation)
    tables = (CLASSES + 1) * d + d + length * d + scales * d  # classes, start, positions, scales
    ends = channels * d + d + 2 * d * d + 2 * d + d * IDS + IDS  # latents, last norm, logits
    return depth * block + tables + ends + (modulation if shared else 0)


def maskgit(tokens: int) -> int:
    """Parameters of MaskGIT, 24 blocks of width 768: one table of words, one of positions."""
    d, f, words = 768, 3072, 1024 + CLASSES + 1  # codes, classes, the mask
    block = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * 2 * d
    head = d * d + d + 2 * d + words
    return words * d + (tokens + 1) * d + 2 * d + 24 * block + head


# LlamaGen and NAR: counted on the reference implementations (FoundationVision/LlamaGen, 16384 ids,
# 1000 classes; ThisisBillhe/NAR, the same for images, 8192 ids and 101 classes for videos).
COUNTS = {
    "llamagen_b.py": 110_888_448,
    "llamagen_b.py:384": 110_888_448,  # position tables are no parameters
    "llamagen_l.py": 342_910_976,
    "llamagen_xl.py": 774_699_520,
    "llamagen_xxl.py": 1_410_972_672,
    "llamagen_3b.py": 3_096_659_200,
    "llamagen_t2i_xl.py": 777_678_080,  # without the buffer of the null caption
    "llamagen_t2i_xl.py:512": 777_678_080,
    "nar_b.py": 130_551_552,
    "nar_b.py:512": 130_551_552,
    "nar_m.py": 295_453_696,
    "nar_l.py": 372_536_320,
    "nar_xl.py": 815_991_040,
    "nar_xxl.py": 1_464_454_656,
    "nar_t2i_xl.py": 818_969_600,
    "nar_t2i_xl.py:512": 818_969_600,
    "nar_video_s.py": 37_800_192,
    "nar_video_b.py": 125_145_600,
    "nar_video_l.py": 368_736_256,
    "nar_video_lp.py": 693_588_480,
    "nar_video_xl.py": 815_500_800,
    "nar_video_xxl.py": 1_467_798_528,
    "var_d16.py": var(16, 680),
    "var_d20.py": var(20, 680),
    "var_d24.py": var(24, 680),
    "var_d30.py": var(30, 680),
    "var_d36.py": var(36, 2240, shared=True),
    # The sums of the shapes of wangqiang9/FlowAR's tensors, without its buffers.
    "flowar_s.py": 171_718_072,
    "flowar_l.py": 586_862_912,
    "flowar_h.py": 1_913_316_880,
    "maskgit_256.py": maskgit(256),
    "maskgit_512.py": maskgit(1024),
}


@pytest.mark.parametrize("spec", COUNTS)
def test_parameter_count(spec):
    config = configs.load(str(tiny.ROOT / "configs" / spec))
    assert count_parameters(FAMILIES[config.family](config.model)) == COUNTS[spec]
    count = f"{COUNTS[spec]:,}"
    assert count in (tiny.ROOT / "configs" / spec.split(":")[0]).read_text()


def test_var_has_the_published_sizes():
    millions = {16: 310.3, 20: 600.9, 24: 1033.4, 30: 2010.0, 36: 2353.9}
    for depth, count in millions.items():
        assert round(COUNTS[f"var_d{depth}.py"] / 1e6, 1) == count


@pytest.mark.parametrize("spec", [spec for spec in COUNTS if ":" not in spec])
def test_memory_that_a_config_states(spec):
    # Parameters and two moments in float32.
    gigabytes = rf"{12 * COUNTS[spec] / 1e9:.1f}\s+GB"
    assert re.search(gigabytes, (tiny.ROOT / "configs" / spec).read_text())


def test_every_config_is_counted():
    files = {path.name for path in (tiny.ROOT / "configs").glob("*.py")}
    own = {name for name in files if name.startswith("digits_")}
    own |= {"image_vq.py", "small_llamagen.py"}
    assert files - own == {spec.split(":")[0] for spec in COUNTS}
