"""Parameter counts equal those of the published models, by shapes alone."""

import pytest

from gen import config as configs
from gen.families import FAMILIES
from gen.families.base import count_parameters
from tests import tiny

# Counted on the reference implementation (FoundationVision/LlamaGen), 16384 ids, 1000 classes.
COUNTS = {
    "llamagen_b.py": 110_888_448,
    "llamagen_b.py:384": 110_888_448,  # position tables are no parameters
    "llamagen_l.py": 342_910_976,
    "llamagen_xl.py": 774_699_520,
    "llamagen_xxl.py": 1_410_972_672,
    "llamagen_3b.py": 3_096_659_200,
    "llamagen_t2i_xl.py": 777_678_080,  # without the buffer of the null caption
    "llamagen_t2i_xl.py:512": 777_678_080,
}


@pytest.mark.parametrize("spec", COUNTS)
def test_parameter_count(spec):
    config = configs.load(str(tiny.ROOT / "configs" / spec))
    assert count_parameters(FAMILIES[config.family](config.model)) == COUNTS[spec]
    count = f"{COUNTS[spec]:,}"
    assert count in (tiny.ROOT / "configs" / spec.split(":")[0]).read_text()


def test_every_config_is_counted():
    files = {path.name for path in (tiny.ROOT / "configs").glob("llamagen_*.py")}
    assert files == {spec.split(":")[0] for spec in COUNTS}
