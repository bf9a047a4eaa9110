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


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("text", [False, True])
def test_train_step_exports(dtype, text):
    config = tiny.config(**(tiny.text() if text else {}), **{"train.dtype": dtype})
    trainer = Trainer(config, sharding.make_mesh(config.mesh, batch_size=8))
    shapes = {"tokens": jax.ShapeDtypeStruct((8, 12), np.int32)}
    if text:
        shapes["caption"] = jax.ShapeDtypeStruct((8, 6, 7), np.float32)
        shapes["caption_valid"] = jax.ShapeDtypeStruct((8, 6), bool)
    else:
        shapes["label"] = jax.ShapeDtypeStruct((8,), np.int32)
    state = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), trainer.abstract)
    exported = export.export(jax.jit(trainer.step), platforms=PLATFORMS)(state, shapes)
    assert exported.platforms == PLATFORMS
    assert len(exported.mlir_module_serialized) > 1000


@pytest.mark.parametrize("guidance", [None, 2.0])
def test_sampler_exports(guidance):
    config = tiny.config()
    family = FAMILIES[config.family](config.model)
    scale_N = family.scales(guidance)
    graphdef, shapes = nnx.split(abstract_model(family))

    def sample(params, label_B, key, sample_B):
        state, _ = family.sample(
            nnx.merge(graphdef, params),
            {"label": label_B},
            draws=drawing.KeyedDraws(key, sample_B),
            scale_N=scale_N,
            num_guided=num_guided_steps(scale_N),
            sampling=token_sampling(top_k=5, top_p=0.9),
        )
        return state.tokens

    arguments = (
        nnx.to_pure_dict(shapes),
        jax.ShapeDtypeStruct((4,), np.int32),
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((4,), np.uint32),
    )
    exported = export.export(jax.jit(sample), platforms=PLATFORMS)(*arguments)
    assert exported.out_avals[0].shape == (4, 12)
    assert len(exported.serialize()) > 1000
