"""The training step and the sampler lower for TPU and CUDA, on a machine that has neither."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax import export

from gen import sharding
from gen.decoding import draws as drawing
from gen.decoding.guidance import num_guided_steps
from gen.decoding.tokens import token_sampling
from gen.families import FAMILIES
from gen.families.base import abstract_model
from gen.training.state import Trainer
from tests import tiny

PLATFORMS = ("tpu", "cuda")


FAMILY_CASES = {
    "next token": {},
    "next token, text": tiny.text(),
    "next neighbour": tiny.neighbours(),
    "next neighbour, video": tiny.neighbours(
        **{"model.grid": [2, 3, 2], "model.positions": "learned", "model.backbone.depth": 3}
    ),
    "next scale": tiny.scales(),
    "next scale, shared": tiny.scales(**{"model.backbone.shared": True}),
    "masked": tiny.masked(),
    "flow": tiny.flow(),
    "flow, cross": tiny.flow(**{"model.head.kind": "cross"}),
}


def shapes_of(family, rows):
    """A batch of this family's data, without data."""
    condition, shapes = family.condition, {}
    if condition.kind == "text":
        size = (rows, condition.caption_length)
        shapes["caption"] = jax.ShapeDtypeStruct((*size, condition.caption_dim), np.float32)
        shapes["caption_valid"] = jax.ShapeDtypeStruct(size, bool)
    else:
        shapes["label"] = jax.ShapeDtypeStruct((rows,), np.int32)
    return shapes


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", FAMILY_CASES)
def test_train_step_exports(dtype, case):
    config = tiny.config(**FAMILY_CASES[case], **{"train.dtype": dtype})
    trainer = Trainer(config, sharding.make_mesh(config.mesh, batch_size=8))
    shapes = shapes_of(trainer.learner, 8)
    data = tiny.random_data(trainer.learner.data_layout, 8)
    shapes["tokens"] = jax.ShapeDtypeStruct(data.shape, data.dtype)
    state = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), trainer.abstract)
    exported = export.export(jax.jit(trainer.step), platforms=PLATFORMS)(state, shapes)
    assert exported.platforms == PLATFORMS
    assert len(exported.mlir_module_serialized) > 1000


@pytest.mark.parametrize("case", FAMILY_CASES)
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_sampler_exports(guidance, case):
    config = tiny.config(**FAMILY_CASES[case])
    family = FAMILIES[config.family](config.model)
    scale_N = family.scales(guidance)
    graphdef, shapes = nnx.split(abstract_model(family))
    filters = {} if family.layout.is_continuous else {"top_k": 5, "top_p": 0.9}
    prepared = family.prepare(4, None, family.Options())

    def sample(params, batch, key, sample_B):
        return family.sample(
            family.lay_out(nnx.merge(graphdef, params)),
            batch,
            draws=drawing.KeyedDraws(key, sample_B),
            scale_N=scale_N,
            num_guided=num_guided_steps(scale_N),
            sampling=token_sampling(**filters),
        )["tokens"]

    arguments = (
        nnx.to_pure_dict(shapes),
        shapes_of(family, 4) | jax.eval_shape(lambda: prepared),
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((4,), np.uint32),
    )
    exported = export.export(jax.jit(sample), platforms=PLATFORMS)(*arguments)
    assert exported.out_avals[0].shape == (4, *family.layout.sample_shape)
    assert len(exported.serialize()) > 1000
