"""Published checkpoints as ours: one file per upstream system, a table from its keys to ours.

model = gen.from_published("llamagen", "c2i_B_256.pt", {"block_size": 256})
tokens = model.sample(0, labels=[207], guidance=4.0, top_k=2000)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import traverse_util

from gen import schema
from gen.errors import UserError, nearest, note
from gen.published import tables
from gen.published.base import System
from gen.published.flowar import FlowAR
from gen.published.kl_vae import KLVAE
from gen.published.llamagen import LlamaGen
from gen.published.llamagen_vq import LlamaGenVQ
from gen.published.magvit_3dvq import MAGVIT3DVQ
from gen.published.maskgit import MaskGIT
from gen.published.maskgit_vqgan import MaskGITVQGAN
from gen.published.maskgit_vqgan_jax import MaskGITVQGANJax
from gen.published.nar import Nar
from gen.published.nar_video import NarVideo
from gen.published.titok_tokenizer import TiTokVQ
from gen.published.var import VAR
from gen.published.var_vqvae import VARVQVAE
from gen.published.weights import Weights, open_weights

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        *(LlamaGen(), LlamaGenVQ(), Nar(), NarVideo(), VAR(), VARVQVAE()),
        *(MaskGITVQGAN(), MaskGITVQGANJax(), KLVAE(), MaskGIT(), FlowAR()),
        *(TiTokVQ(), MAGVIT3DVQ()),
    )
}

Files = str | Path | Sequence[str | Path]
# Where training scripts keep a model, in the order in which its own sampling scripts look. Names in
# Flax's files have slashes.
NESTS = (
    *("", "model.", "module.", "state_dict.", "model.module.", "model.sd.", "model_ema.", "ema."),
    *("ema_params/", "g_params/", "g_optimizer/target/", "params/"),
)


def system_named(name: str) -> System:
    """The system; raises `UserError` with the nearest name if there is none."""
    if name not in SYSTEMS:
        raise UserError(f'published system "{name}" is unknown{nearest(name, SYSTEMS)}')
    return SYSTEMS[name]


@dataclasses.dataclass(frozen=True)
class Part:
    """The tensors of one part of a checkpoint, under their bare names."""

    files: dict[str, Weights]
    prefix: str

    @property
    def tensors(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Bare name -> (shape, dtype)."""
        return {
            name.removeprefix(self.prefix): (file.shapes[name], file.dtypes[name])
            for name, file in self.files.items()
            if name.startswith(self.prefix)
        }

    def read(self, name: str) -> Any:
        return self.files[self.prefix + name].read(self.prefix + name)


def open_part(files: Files, anchor: str, key: str | None = None) -> Part:
    """Opens the files of one part and finds where the model lies in them.

    Raises:
      UserError: a file cannot be read, holds no such model, or two files hold the same tensor.
    """
    paths = [files] if isinstance(files, (str, Path)) else list(files)
    owner: dict[str, Weights] = {}
    for weights in map(open_weights, paths):
        for name in weights.shapes:
            if name in owner:
                raise UserError(f"{weights.path} and {owner[name].path} both hold {name}")
            owner[name] = weights
    found = [name.removesuffix(anchor) for name in owner if name == anchor]
    ends = "." + anchor, "/" + anchor
    found += [name.removesuffix(anchor) for name in owner if name.endswith(ends)]
    where = ", ".join(str(path) for path in paths)
    if key is not None:
        wanted = [prefix for prefix in found if prefix.rstrip("./") == key.rstrip("./")]
        if not wanted:
            raise UserError(f'{where}: no model under "{key}"; {anchor} is found {_listed(found)}')
        return Part(owner, wanted[0])
    if not found:
        some = ", ".join(list(owner)[:3]) or "no tensor at all"
        raise UserError(f"{where}: no tensor named {anchor} (it holds {some} ...)")
    rank = {prefix: place for place, prefix in enumerate(NESTS)}
    chosen = min(found, key=lambda prefix: (rank.get(prefix, len(rank)), prefix))
    if len(found) > 1:
        note(f'{where} holds several models, {_listed(found)}: taking "{chosen.rstrip("./")}"')
    return Part(owner, chosen)


def _listed(prefixes: Sequence[str]) -> str:
    """`under "ema", "model"`."""
    names = ", ".join(f'"{prefix.rstrip("./")}"' for prefix in sorted(prefixes))
    return f"under {names}" if names else "nowhere"


def open_parts(
    system: System, weights: Files | Mapping[str, Files], key: str | None
) -> dict[str, Part]:
    """Opens every part; one that is not given is looked for in the files of the first.

    Raises:
      UserError: as `open_part`; or a part is given that the system does not have.
    """
    first = next(iter(system.parts))
    files = dict(weights) if isinstance(weights, Mapping) else {first: weights}
    if first not in files or not files.keys() <= system.parts.keys():
        raise UserError(
            f"{system.name} has the parts {', '.join(system.parts)}; "
            f"given: {', '.join(files) or 'none'}"
        )
    parts = {}
    for name, anchor in system.parts.items():
        try:
            parts[name] = open_part(files.get(name, files[first]), anchor, key)
        except UserError as error:
            if name in files:
                raise
            raise UserError(f"part {name} is not given, and {error}") from None
    return parts


def own_tensors(name: str, parts: Mapping[str, Part]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The tensors of a part without those of another that lies deeper in the same files."""
    part = parts[name]
    deeper = [
        other.prefix.removeprefix(part.prefix)
        for other in parts.values()
        if other.files.keys() == part.files.keys()
        and other.prefix != part.prefix
        and other.prefix.startswith(part.prefix)
    ]
    return {n: about for n, about in part.tensors.items() if not n.startswith(tuple(deeper))}


def resolve(system: System, parts: Mapping[str, Part], given: Mapping[str, Any] | None) -> Any:
    """The system's settings: those given, else those inferred, else the reference's defaults.

    Raises:
      UserError: a setting is unknown (the nearest is named) or of the wrong type.
    """
    shapes = {
        part: {name: shape for name, (shape, _) in opened.tensors.items()}
        for part, opened in parts.items()
    }
    stored: dict[str, Any] = {}
    for file in opened_files(parts):
        stored |= file.settings
    inferred = system.infer(shapes, stored | dict(given or {}))
    unknown = {name: None for name in given or {} if name not in schema.hints(system.Settings)}
    values = over(inferred, given or {}) | unknown
    return schema.build(system.Settings, values, f"{system.name} settings")


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with those of another mapping over them; none counts as not given."""
    merged = {name: value for name, value in below.items() if value is not None}
    for name, value in above.items():
        if isinstance(value, Mapping):
            merged[name] = over(merged.get(name, {}), value)
        elif value is not None:
            merged[name] = value
    return {n: over({}, v) if isinstance(v, Mapping) else v for n, v in merged.items()}


def from_published(
    system: str,
    weights: Files | Mapping[str, Files],
    config: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
) -> Any:
    """A generator or tokenizer from published weights.

    Args:
      system: name of the upstream system, such as `llamagen` or `llamagen-vq`.
      weights: a `.safetensors`, `.pt` or `.pth` file, or several that make up one checkpoint; or
        a mapping from part to file(s) where weights come in parts. Nothing in them is executed.
      config: settings under the reference's own names; what is left out is inferred from the
        weights where they tell it.
      key: where in the file the model lies, such as `ema`; found by itself if left out.

    Returns:
      `gen.Generator` or `gen.tokenizers.Tokenizer`.

    Raises:
      UserError: a file is damaged or tries to run code; settings are unknown or missing; tensors
        are missing, unknown or of the wrong shape (all of them are named).
    """
    chosen = system_named(system)
    parts = open_parts(chosen, weights, key)
    settings = resolve(chosen, parts, config)
    target = chosen.target(settings)
    where = tables.sources(chosen.table(settings), target.shapes)
    theirs = {name: own_tensors(name, parts) for name in parts}
    tables.check(where, target.shapes, theirs, ignored=chosen.ignored)
    flat = tables.read(where, target.shapes, lambda part, name: parts[part].read(name))
    return target.make(traverse_util.unflatten_dict(flat, sep="/"), origin(chosen, parts, settings))


def opened_files(parts: Mapping[str, Part]) -> list[Weights]:
    """Each file of the parts once."""
    return list({w.path: w for part in parts.values() for w in part.files.values()}.values())


def origin(system: System, parts: Mapping[str, Part], settings: Any) -> dict[str, Any]:
    """Where weights came from, for checkpoints and manifests."""
    files = {file.path.name: file.sha256() for file in opened_files(parts)}
    return {
        "id": system.name,
        "source": system.source,
        "sha256": next(iter(files.values())) if len(files) == 1 else None,
        "files": files,
        "settings": dataclasses.asdict(settings),
    }
