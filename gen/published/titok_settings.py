"""Settings of TiTok's tokenizers under the reference's names, as its `config.json` has them."""

from __future__ import annotations

import dataclasses

from gen.errors import UserError

SIZES = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16)}
STACKS = {"enc": "encoder", "dec": "decoder"}


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """A row of the reference's table of sizes."""

    width: int
    layers: int
    heads: int


@dataclasses.dataclass(frozen=True)
class SizeTable:
    """The reference's table of sizes, which its source fixes."""

    small: ModelSize = ModelSize(*SIZES["small"])
    base: ModelSize = ModelSize(*SIZES["base"])
    large: ModelSize = ModelSize(*SIZES["large"])


@dataclasses.dataclass(frozen=True)
class VQModelArgs:
    """The reference's `config.model.vq_model`; none: told by the weights."""

    codebook_size: int | None = None
    token_size: int | None = None
    use_l2_norm: bool | None = None
    vit_enc_model_size: str | None = None
    vit_dec_model_size: str | None = None
    vit_enc_patch_size: int | None = None
    vit_dec_patch_size: int | None = None
    num_latent_tokens: int | None = None
    finetune_decoder: bool | None = None
    is_legacy: bool | None = None
    quantize_mode: str = "vq"
    # Of its training alone.
    commitment_cost: float = 0.25
    clustering_vq: bool = False
    pretrained_tokenizer_weight: str | None = None

    def __post_init__(self) -> None:
        if self.quantize_mode != "vq":
            raise UserError(
                f'model.vq_model.quantize_mode "{self.quantize_mode}" is not supported: only vq, '
                "models with a codebook"
            )
        for name in STACKS:
            chosen = getattr(self, f"vit_{name}_model_size")
            if chosen not in (None, *SIZES):
                raise UserError(
                    f'model.vq_model.vit_{name}_model_size "{chosen}" is not one of '
                    f"{', '.join(SIZES)}"
                )


@dataclasses.dataclass(frozen=True)
class ModelArgs:
    """The reference's `config.model`."""

    vq_model: VQModelArgs = dataclasses.field(default_factory=VQModelArgs)
    generator: dict | None = None  # of another model


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images are cut; only their size matters here."""

    crop_size: int | None = None
    resize_shorter_edge: int | None = None
    random_crop: bool | None = None
    random_flip: bool | None = None


@dataclasses.dataclass(frozen=True)
class DatasetArgs:
    """The reference's `config.dataset`."""

    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    params: dict | None = None  # of its training alone


@dataclasses.dataclass(frozen=True)
class PixelDecoderArgs:
    """Sizes of the pixel decoder and its codes, which the source fixes; none: told by weights."""

    codebook_size: int | None = None
    embedding_dim: int | None = None
    hidden_channels: int | None = None
    channel_mult: tuple[int, ...] | None = None
    num_res_blocks: int | None = None
    groupnorm_groups: int = 32
    groupnorm_eps: float = 1e-6
    # What follows from the others, and what has one value.
    z_channels: int | None = None
    num_resolutions: int | None = None
    num_channels: int = 3
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class NormArgs:
    """The norms of the transformers."""

    type: str = "LayerNorm"
    eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class TiTokArgs:
    """The reference's config, and what its source fixes."""

    model: ModelArgs = dataclasses.field(default_factory=ModelArgs)
    dataset: DatasetArgs = dataclasses.field(default_factory=DatasetArgs)
    size_table: SizeTable = dataclasses.field(default_factory=SizeTable)
    pixel_decoder: PixelDecoderArgs | None = None
    mlp_ratio: float = 4.0
    norms: NormArgs = dataclasses.field(default_factory=NormArgs)
    layout: str = "NCHW"
    pixel_range_native: tuple[float, float] = (0.0, 1.0)
    # Of its training alone.
    experiment: dict | None = None
    losses: dict | None = None
    optimizer: dict | None = None
    lr_scheduler: dict | None = None
    training: dict | None = None

    def __post_init__(self) -> None:
        channels = 3 if self.pixel_decoder is None else self.pixel_decoder.num_channels
        found = {"norms.type": self.norms.type, "layout": self.layout}
        found |= {"pixel_range_native": self.pixel_range_native}
        found |= {"pixel_decoder.num_channels": channels}
        for value, (name, given) in zip(("LayerNorm", "NCHW", (0.0, 1.0), 3), found.items()):
            if given != value:
                raise UserError(f"{name} must be {value}: no published model has another")
