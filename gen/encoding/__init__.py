"""Users' pixels to datasets of tokens: what `gen.encode` does with images and videos.

`job.Job` says what is to be encoded and how, `work.complete` does it in parts on disk, and `merge`
makes the dataset of them; `preview` shows reconstructions beside the originals.
"""

from gen.encoding.job import Job
from gen.encoding.work import complete

__all__ = ["Job", "complete"]
