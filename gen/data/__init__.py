"""Datasets of tokens or latents: written, checked, and served as batches.

`write_dataset` stores tokens that some tokenizer made, `import_code_folder` and
`import_captioned_codes` those in LlamaGen's folders, `import_token_lines` those in 1d-tokenizer's
files, `import_moment_folders` the latents in MAR's folders; `open_dataset` opens them, or the
digits that ship with the package; `check_dataset` reports what is in them (`python -m gen.data`);
`batches` and `eval_batches` serve them. TFDS, grain and JAX are imported only by the functions that
need them.
"""

from gen.data.caption_folders import import_captioned_codes
from gen.data.code_folders import import_code_folder
from gen.data.dataset import Dataset, Split
from gen.data.manifest import Manifest
from gen.data.moment_folders import import_moment_folders
from gen.data.pipeline import Batches, Shift, batches, eval_batches
from gen.data.reader import open_dataset
from gen.data.report import check_dataset
from gen.data.synthetic import random_dataset
from gen.data.token_lines import import_token_lines
from gen.data.writer import write_dataset

__all__ = [
    "Batches",
    "Dataset",
    "Manifest",
    "Shift",
    "Split",
    "batches",
    "check_dataset",
    "eval_batches",
    "import_captioned_codes",
    "import_code_folder",
    "import_moment_folders",
    "import_token_lines",
    "open_dataset",
    "random_dataset",
    "write_dataset",
]
