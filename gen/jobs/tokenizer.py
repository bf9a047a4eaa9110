"""The job of a tokenizer: pictures in, and a tokenizer like any published one out.

Axes: N crops, H height, W width, P positions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from flax import traverse_util

from gen import distributed, pictures, sharding, tokenizers
from gen.autoencoding import blank, perceptual
from gen.errors import UserError
from gen.images.training import held_out_crops, open_pictures, training_crops
from gen.jobs.base import Job
from gen.metrics import pixels as scores
from gen.published.weights import open_weights
from gen.training.feed import stream
from gen.training.state import Params, Trainer, TrainState

FILE = "tokenizer.safetensors"
SHOWN = 10  # held-out crops of the picture


class TokenizerJob(Job):
    """Trains a tokenizer on pictures."""

    free: ClassVar = ("data.valid_crops", "data.cache_mb", "loss.perceptual.files")
    curves: ClassVar = {"psnr": "training", "valid/psnr": "held out"}
    unit = "PSNR in dB"

    def __init__(
        self, trainer: Trainer, *, init_from: str | None, tokenizer: str | None, is_new: bool
    ) -> None:
        config, learner = trainer.config, trainer.learner
        if tokenizer:
            raise UserError("--tokenizer: this run trains one itself; --init_from starts from one")
        self.trainer, self.name, self.is_warm = trainer, config.tokenizer, init_from is not None
        self.about = {}
        self._pictures, held_out = open_pictures(config.data)
        self.num_examples = len(self._pictures)
        sizes = learner.kind.shapes(learner.config).values()
        self.num_parameters = sum(map(math.prod, sizes))
        self._held_out_NHWC = held_out_crops(held_out, config.data)
        self._given = _weights_of(init_from, learner) if init_from else {}
        self._perceptual_files = config.loss.perceptual.files
        for path in self._perceptual_files if is_new else ():  # later they are in the checkpoint
            open_weights(path)
        self._tokenizer = blank(learner.kind, learner.config)

    def start(self) -> TrainState:
        state = self.trainer.init()
        params = dict(state.params)
        if self._given:
            params = self.trainer.learner.started(params, self._given)
        if self._perceptual_files:
            opened = [open_weights(path) for path in self._perceptual_files]
            holders = {name: weights for weights in opened for name in weights.shapes}
            params["perceptual"] = perceptual.read(holders, lambda n: holders[n].read(n))
        return self.trainer.init_from(params)

    def batches(self, start: int) -> Iterator[dict[str, jax.Array]]:
        config = self.trainer.config
        rows = config.train.batch_size

        def blocks(ways: int) -> Callable[[int], dict[str, np.ndarray]]:
            options = {"batch_size": rows // ways, "seed": config.train.seed}
            return training_crops(self._pictures, config.data, **options)

        return stream(blocks, rows, self.trainer.mesh, start=start)

    def held_out(self, params: Params) -> dict[str, float]:
        return self._scores(*self._round_trip(params))

    def finish(self, params: Params, workdir: Path) -> dict[str, Any]:
        """Scores the held-out crops, and writes the tokenizer and `reconstructions.png`."""
        tokens_NP, made_NHWC = self._round_trip(params)
        learner, (height, width) = self.trainer.learner, self.trainer.config.data.size
        bits = learner.layout.num_positions * math.log2(learner.layout.vocab_sizes[0])
        weights = self._weights(params)
        meta = self._meta(weights)
        if distributed.is_main():
            tokenizers.save(learner.kind(learner.config, weights, meta=meta), workdir / FILE)
            self._draw(made_NHWC, workdir / "reconstructions.png")
        return {
            "held_out": self._scores(tokens_NP, made_NHWC),
            "crops": len(tokens_NP),
            "bits_per_pixel": bits / (height * width),
            "tokenizer": str(workdir / FILE),
            "sha256": meta["sha256"],
        }

    def _weights(self, params: Params) -> dict[str, Any]:
        """The tokenizer's own, whole, in the memory of each process."""
        whole = jax.jit(lambda p: p, out_shardings=sharding.replicated(self.trainer.mesh))
        return jax.tree.map(np.asarray, whole(params["tokenizer"]))

    def _round_trip(self, params: Params) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the held-out crops, and the uint8 pixels that they come back as.

        On the first device of each process: crops are few.
        """
        tokenizer, config = self._tokenizer, self.trainer.config
        device = jax.local_devices()[0]
        tokenizer.params = jax.device_put(self._weights(params), device)
        options = {"batch_size": config.eval.batch_size}
        with jax.set_mesh(sharding.replicas([device])):  # not the run's, which has all devices
            tokens_NP = tokenizer.encode(self._held_out_NHWC, **options)
            made_NHWC = tokenizer.decode(tokens_NP, config.data.size, **options)
        return tokens_NP, tokenizer.to_uint8(made_NHWC)

    def _scores(self, tokens_NP: np.ndarray, made_NHWC: np.ndarray) -> dict[str, float]:
        wanted_NHWC = self._held_out_NHWC
        found = {"psnr": scores.mean_psnr(wanted_NHWC, made_NHWC)}
        similarity = float(scores.ssim(wanted_NHWC, made_NHWC).mean())
        found |= {} if np.isnan(similarity) else {"ssim": similarity}
        return found | scores.code_use(tokens_NP, len(self._tokenizer.codebook))

    def _meta(self, weights: dict[str, Any]) -> dict[str, Any]:
        """What the tokenizer says of itself; its sum is that of its weights."""
        config, digest = self.trainer.config, hashlib.sha256()
        for name, array in sorted(traverse_util.flatten_dict(weights, sep="/").items()):
            digest.update(f"{name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        source = Path(config.data.dir or config.data.name).name
        return {
            "id": f"{config.tokenizer}-{digest.hexdigest()[:12]}",
            "sha256": digest.hexdigest(),
            "source": f"gen.train, {config.train.steps} steps on {source}",
            "size": list(config.data.size),
        }

    def _draw(self, made_NHWC: np.ndarray, path: Path) -> None:
        """Held-out crops, each above what came back of it."""
        rows = np.unique(np.linspace(0, len(made_NHWC) - 1, SHOWN).astype(int))
        wanted_NHWC, made_NHWC = self._held_out_NHWC[rows], made_NHWC[rows]
        names = [f"{value:.1f} dB" for value in scores.psnr(wanted_NHWC, made_NHWC)]
        pictures.save_grid(
            path, np.concatenate([wanted_NHWC, made_NHWC]), columns=len(rows),
            labels=["held out"] * len(rows) + names,
            title=f"step {self.trainer.config.train.steps}: originals above reconstructions",
        )  # fmt: skip


def _weights_of(path: str, learner: Any) -> dict[str, Any]:
    """The weights of a tokenizer file, if they are of the learner's kind and config."""
    given = tokenizers.load(path)
    if given.kind != learner.kind.kind or given.config != learner.config:
        raise UserError(
            f"--init_from {path}: it is a {given.kind} of {given.config}, this run trains a "
            f"{learner.kind.kind} of {learner.config}"
        )
    return given.params
