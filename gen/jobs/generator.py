"""The job of a generator: tokens in, likelihood and samples out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from gen import distributed, evaluate
from gen.api import Generator
from gen.data import Dataset
from gen.evaluate import check_scores
from gen.families.base import count_parameters
from gen.inputs import class_names, open_data
from gen.jobs.base import Job
from gen.pictures.samples import save_samples
from gen.training.feed import feed
from gen.training.init_from import Start
from gen.training.state import Params, Trainer, TrainState


class GeneratorJob(Job):
    """Trains a generator on a dataset of tokens.

    Attributes:
      dataset: opened, and held against the model.
    """

    free: ClassVar = ("sample",)

    def __init__(
        self, trainer: Trainer, *, init_from: str | None, tokenizer: str | None, is_new: bool
    ) -> None:
        config, family = trainer.config, trainer.learner
        self.trainer, self.family, self.name = trainer, family, config.family
        check_scores(config.eval.scores, config.eval.num_samples)
        sample = config.sample
        family.scales(sample.guidance, sample.guidance_interval, sample.options)
        self.dataset: Dataset = open_data(config, family)
        self.about = {"class_names": self.dataset.manifest.condition.get("names")}
        self._start = Start.checked(family, init_from=init_from, tokenizer=tokenizer)
        if is_new and config.data.name != "random":
            self._start.check_enough(family)
        self._generator: Generator | None = None
        self.num_examples = len(self.dataset.split(config.data.train))
        self.num_parameters = count_parameters(family)
        self.is_warm = self._start.source is not None
        measure = {"nll": "nats_per_token"}.get(family.measure, family.measure)
        self.unit = measure.replace("_", " ")
        self.curves = {"loss": "training loss", f"valid/{measure}": "held out"}

    def start(self) -> TrainState:
        return self._start.state(self.trainer)

    def batches(self, start: int) -> Iterator[dict[str, jax.Array]]:
        config = self.trainer.config
        split = self.dataset.split(config.data.train)
        return feed(config, split, self.trainer.mesh, start=start)

    def generator(self, params: Params) -> Generator:
        """The generator with these weights; what it has compiled is kept."""
        trainer = self.trainer
        if self._generator is None:
            options = {"mesh": trainer.mesh, "dtype": trainer.config.train.dtype}
            self._generator = Generator(trainer.config, params, **options)
        self._generator.params = params
        return self._generator

    def held_out(self, params: Params) -> dict[str, float]:
        config = self.trainer.config
        if not config.data.valid:
            return {}
        split = self.dataset.split(config.data.valid)
        generator = self.generator(params)
        return evaluate.held_out(generator, split, batch_size=config.eval.batch_size)

    def finish(self, params: Params, workdir: Path) -> dict[str, Any]:
        """Scores the test split once, and draws samples."""
        config, generator, result = self.trainer.config, self.generator(params), {}
        if config.data.test:
            result = evaluate.evaluate(
                generator, self.dataset, split=config.data.test,
                scores=config.eval.scores, num_samples=config.eval.num_samples,
            )  # fmt: skip
        if self.family.condition.kind == "class":
            self._draw_samples(generator, workdir)
        return result

    def _draw_samples(self, generator: Generator, workdir: Path) -> None:
        """Writes `samples.png`: up to a hundred samples, all classes in turn."""
        config, family = self.trainer.config, self.family
        settings, num_classes = config.sample.settings(), family.condition.num_classes
        labels_N = np.arange(100 if num_classes >= 10 else 10 * num_classes) % num_classes
        tokens_NP = generator.sample(config.train.seed, labels=labels_N, **settings)
        samples_NP = generator.to_data(tokens_NP)
        if not distributed.is_main():
            return
        names = class_names(self.dataset, num_classes)
        save_samples(
            workdir / "samples.png", samples_NP, layout=family.data_layout,
            labels=[names[label] for label in labels_N],
            title=f"step {config.train.steps}, guidance {settings['guidance']}",
        )  # fmt: skip
