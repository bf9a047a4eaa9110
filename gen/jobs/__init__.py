"""What `gen.train` can train: a job for each type of config."""

from gen.config import Config, TokenizerRun
from gen.jobs.base import Job
from gen.jobs.generator import GeneratorJob
from gen.jobs.tokenizer import TokenizerJob

JOBS: dict[type, type[Job]] = {Config: GeneratorJob, TokenizerRun: TokenizerJob}

__all__ = ["JOBS", "GeneratorJob", "Job", "TokenizerJob"]
