"""`python -m gen.export RUN --out DIR`: a sampler as StableHLO, which runs without this package.

Axes: B samples, P positions, T caption slots, C caption channels.

The folder holds `sampler.bin`, what `jax.export` serialises: one program for all batch sizes and
platforms; `params.npz`, the weights by name; and `config.json`: the run's config, the settings of
sampling, what goes in and comes out, versions and SHA-256 sums. The README shows the few lines that
load it, with jax and flatbuffers alone.
"""

from __future__ import annotations

import contextlib
import json
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from flax import nnx, traverse_util
from jax import export as stablehlo
from tqdm import tqdm

import gen
from gen import runtime, schema
from gen.api import Generator, load
from gen.command_line import Parser
from gen.data import files
from gen.decoding import draws
from gen.decoding.guidance import num_guided_steps
from gen.decoding.tokens import token_sampling
from gen.errors import UserError, ensure_writable, exit_on_user_error
from gen.families.base import abstract_model
from gen.models import attention_kinds
from gen.models.conditioning import ConditionConfig
from gen.sampling.flags import add_settings, settings_from

FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, PARAMS, CONFIG = "sampler.bin", "params.npz", "config.json"


def sampler(generator: Generator, settings: Mapping[str, Any]) -> Callable:
    """The function to export: what `Generator.draw` gives, of arrays alone.

    Args:
      generator: what to sample from; its weights are an argument of the function.
      settings: all those of `Generator.draw` from `guidance` to `top_p`, and the family's options.

    Returns:
      A function of `params` (name -> array), `condition` (fields of a batch), `seed` (uint32) and
      `sample` (uint32 `(B,)`, numbers of the samples). It returns `tokens` and `latents`, as `draw`
      does, and `data` of `family.data_layout` where that is another than the tokens'.

    Raises:
      UserError: a setting is out of range, unknown, or does not fit the model; or the generator
        computes in int8, which takes products of one platform.
    """
    if generator.precision == "int8":
        raise UserError("int8 is not exported: load the generator in float32 or bfloat16")
    family, own = generator.family, dict(settings)
    filters = {name: own.pop(name) for name in ("top_k", "top_p")}
    sampling = token_sampling(own.pop("temperature"), **filters)
    number, interval = own.pop("guidance"), own.pop("guidance_interval")
    options = schema.build(family.Options, own, "options of sampling")
    scale_N = family.scales(number, interval, options)
    graphdef = nnx.split(abstract_model(family, dtype=generator.dtype))[0]
    prepared = family.prepare(1, None, options)

    def sample(
        params: dict[str, jax.Array],
        condition: dict[str, jax.Array],
        seed: jax.Array,
        sample_B: jax.Array,
    ) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, traverse_util.unflatten_dict(params, sep="/"))
        rows = sample_B.shape[0]
        same = {n: jnp.broadcast_to(row, (rows, *row.shape[1:])) for n, row in prepared.items()}
        made = family.sample(
            family.lay_out(model), condition | same, draws=draws.keyed(seed, sample_B),
            scale_N=scale_N, num_guided=num_guided_steps(scale_N), sampling=sampling,
            options=options,
        )  # fmt: skip
        if family.data_layout != family.layout:
            made["data"] = family.to_data(model, made["tokens"])
        return made

    return sample


def condition_shapes(condition: ConditionConfig, rows: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Fields of a batch that hold the condition of so many rows."""
    if condition.kind == "class":
        return {"label": jax.ShapeDtypeStruct((rows,), np.int32)}
    valid = (rows, condition.caption_length)
    return {
        "caption": jax.ShapeDtypeStruct((*valid, condition.caption_dim), np.float32),
        "caption_valid": jax.ShapeDtypeStruct(valid, bool),
    }


def flat_params(generator: Generator) -> dict[str, Any]:
    """Weights by names such as `backbone/blocks/attention/query/kernel`."""
    return traverse_util.flatten_dict(generator.params, sep="/")


def arguments(generator: Generator) -> dict[str, Any]:
    """Shapes and dtypes of the arguments of `sampler`, by name and in order; B is symbolic."""
    (rows,) = stablehlo.symbolic_shape("b")
    shape_of = jax.ShapeDtypeStruct
    return {
        "params": {n: shape_of(a.shape, a.dtype) for n, a in flat_params(generator).items()},
        "condition": condition_shapes(generator.family.condition, rows),
        "seed": shape_of((), np.uint32),
        "sample": shape_of((rows,), np.uint32),
    }


def this_platform() -> str:
    """The platform of this machine by the name that exports give it."""
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend


def lower(
    generator: Generator,
    settings: Mapping[str, Any],
    *,
    platforms: tuple[str, ...] = PLATFORMS,
) -> stablehlo.Exported:
    """The program of `sampler`, lowered for these platforms; they need not be at hand.

    Raises:
      UserError: as `sampler`.
    """
    function = jax.jit(sampler(generator, settings))
    given = tuple(arguments(generator).values())
    frames = jax.config.jax_traceback_in_locations_limit
    # Else the program would name the files of this machine.
    jax.config.update("jax_traceback_in_locations_limit", 0)
    # Plain attention for several platforms: other ways of it are of one, and one is this machine's.
    plain = attention_kinds.only(attention_kinds.PLAIN)
    own = platforms == (this_platform(),)
    try:
        with (
            contextlib.nullcontext() if own else plain,
            tqdm(total=2, unit="stage", desc="program", delay=0.5) as bar,
        ):
            function.trace(*given)  # which JAX keeps
            bar.update()
            program = stablehlo.export(function, platforms=platforms)(*given)
            bar.update()
    finally:
        jax.config.update("jax_traceback_in_locations_limit", frames)
    return program


def described(tree: Any) -> Any:
    """A tree of shapes and dtypes as plain values, `"b"` for a number of rows that is free."""
    return jax.tree.map(
        lambda leaf: {
            "shape": [n if isinstance(n, int) else str(n) for n in leaf.shape],
            "dtype": jnp.dtype(leaf.dtype).name,
        },
        tree,
    )


def save(out: Path, program: stablehlo.Exported, generator: Generator, about: dict) -> None:
    """Writes the folder, whole or not at all.

    Args:
      out: the folder, which does not exist or is empty.
      program: from `lower`.
      generator: whose weights go with it.
      about: further fields of `config.json`.

    Raises:
      UserError: something else is in the folder by now, or it cannot be written to.
    """
    record = {
        "format": FORMAT,
        **about,
        "config": generator.config.to_json(),
        "published": generator.published,
        "platforms": program.platforms,
        "inputs": described(arguments(generator)),
        "outputs": described(jax.tree.unflatten(program.out_tree, program.out_avals)),
        "versions": {
            "gen": gen.__version__,
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "calling_convention": program.calling_convention_version,
        },
    }
    try:
        with files.staging(out.parent, out.name) as stage:
            (stage / PROGRAM).write_bytes(program.serialize())
            save_params(stage / PARAMS, flat_params(generator))
            record["sha256"] = {name: files.sha256_of(stage / name) for name in (PROGRAM, PARAMS)}
            (stage / CONFIG).write_text(json.dumps(record, indent=1) + "\n")
            if not files.install(stage, out):
                raise UserError(f"{out} exists by now: choose another place to write to")
    except OSError as error:
        raise UserError(f"cannot write to folder {out}: {error.strerror}") from None


def save_params(path: Path, params: Mapping[str, Any]) -> None:
    """Writes an `.npz` as NumPy does, array by array; the same weights give the same bytes."""
    total = sum(leaf.nbytes for leaf in params.values())
    with (
        zipfile.ZipFile(path, "w") as file,
        tqdm(total=total, unit="B", unit_scale=True, desc="weights", delay=0.5) as bar,
    ):
        for name, leaf in params.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(leaf), allow_pickle=False)
            bar.update(leaf.nbytes)


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m gen.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder, or one of its checkpoints")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder to write")
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="what it is to run on")
    # int8 is of CPUs alone.
    add_settings(parser, precisions=("float32", "bfloat16"))
    return parser


def parse_platforms(text: str) -> tuple[str, ...]:
    """`"cpu,tpu"` as names, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in PLATFORMS:
            raise UserError(f'--platforms: "{name}" is not one of {", ".join(PLATFORMS)}')
    return names


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    runtime.start()
    args = make_parser().parse_args(argv)
    platforms, out = parse_platforms(args.platforms), Path(args.out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists: choose another place to write to")
    ensure_writable(out.parent)
    generator = load(args.run, averaged=not args.raw, dtype=args.dtype)
    settings = settings_from(args, generator)
    del settings["batch_size"]  # a program serves any
    program = lower(generator, settings, platforms=platforms)
    about = {"run": args.run, "averaged": not args.raw, "dtype": args.dtype, "settings": settings}
    save(out, program, generator, about)
    sizes = {name: (out / name).stat().st_size / 1e6 for name in (PROGRAM, PARAMS)}
    print(f"{out}: " + ", ".join(f"{name} {size:.2f} MB" for name, size in sizes.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
