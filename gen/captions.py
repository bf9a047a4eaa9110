"""Captions as text-encoder features, in a folder: made once, then trained on and sampled from.

Axes: N captions, B batch, T caption slots, C channels of a feature.

The folder holds `caption.npy` (N, T, C) float16, `caption_valid.npy` (N, T) bool, `captions.txt`
(one per line) and `encoder.json`. The arrays are memory-mapped: they may be larger than memory.
Features are left-padded, as LlamaGen's text models want them: the last `len` slots hold the
caption, the slots in front are zero and not valid.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gen.errors import UserError, ensure_writable

# (list of B texts) -> features (B, T, C) float and validity (B, T), padded on the right.
Encoder = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]

FILES = {"caption": "caption.npy", "caption_valid": "caption_valid.npy"}


@dataclasses.dataclass(frozen=True)
class CaptionSet:
    """Encoded captions.

    Attributes:
      texts: N captions.
      caption: features `(N, T, C)`, memory-mapped.
      caption_valid: `(N, T)` bool.
      encoder: name of the text encoder.
    """

    texts: list[str]
    caption: np.ndarray
    caption_valid: np.ndarray
    encoder: str


def read_texts(path: str | Path) -> list[str]:
    """Captions of a text file, one per line, or of a `.jsonl` with a `caption` or `text` field.

    Raises:
      UserError: the file is missing, not UTF-8, empty, or a line holds no caption.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"captions {path} cannot be read: {error}") from None
    texts = []
    for number, line in enumerate(lines, 1):
        text = _from_json(line, f"{path}, line {number}") if path.suffix == ".jsonl" else line
        if not text.strip():
            raise UserError(f"{path}, line {number}: the caption is empty")
        texts.append(" ".join(text.split()))
    if not texts:
        raise UserError(f"captions {path}: the file is empty")
    return texts


def _from_json(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    found = isinstance(record, dict) and (record.get("caption") or record.get("text"))
    if not isinstance(found, str):
        raise UserError(f'{where}: expected a JSON object with the text "caption" or "text"')
    return found


def left_padded(features_BTC: np.ndarray, valid_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves each caption to the end of its slots and sets the slots in front to zero.

    Source: FoundationVision/LlamaGen, `sample_t2i.py`.

    Raises:
      UserError: valid slots of a row are none, or do not come first.
    """
    valid_BT = np.asarray(valid_BT, bool)
    features_BTC = np.asarray(features_BTC, np.float32)
    moved, shown = np.zeros_like(features_BTC), np.zeros_like(valid_BT)
    for row, count in enumerate(valid_BT.sum(axis=1)):
        if not count or not valid_BT[row, :count].all():
            raise UserError(f"caption {row}: its valid slots must be the first, and one at least")
        moved[row, -count:] = features_BTC[row, :count]
        shown[row, -count:] = True
    return moved, shown


def encode(
    texts: list[str],
    encoder: Encoder,
    out: str | Path,
    *,
    name: str,
    length: int,
    dim: int,
    batch_size: int = 16,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Encodes captions into a folder; started again, it goes on where it was stopped.

    Args:
      texts: the captions.
      encoder: see `Encoder`.
      out: the folder to write.
      name: of the encoder, for the record.
      length: T.
      dim: C.
      batch_size: captions encoded together.
      progress: called with the number of captions done after each batch.

    Raises:
      UserError: the folder holds other captions or can't be written to, or features overflow.
    """
    out = ensure_writable(out)
    about = {"encoder": name, "length": length, "dim": dim, "count": len(texts)}
    done = _begin(out, texts, about)
    shapes = {"caption": (len(texts), length, dim), "caption_valid": (len(texts), length)}
    dtypes = {"caption": np.float16, "caption_valid": np.bool_}
    arrays = {
        field: np.lib.format.open_memmap(
            out / FILES[field], mode="r+" if done else "w+", dtype=dtypes[field], shape=shape
        )
        for field, shape in shapes.items()
    }
    for start in range(done, len(texts), batch_size):
        rows = slice(start, start + batch_size)
        features, valid = left_padded(*encoder(texts[rows]))
        with np.errstate(over="ignore"):
            halves = features.astype(np.float16)
        if not np.isfinite(halves).all():
            raise UserError(f"features of captions from {start} on are no numbers in float16")
        arrays["caption"][rows], arrays["caption_valid"][rows] = halves, valid
        for array in arrays.values():
            array.flush()
        _write(out, about | {"done": min(start + batch_size, len(texts))})
        progress(min(start + batch_size, len(texts)))


def _begin(out: Path, texts: list[str], about: dict[str, Any]) -> int:
    """How many captions of this very job are encoded already; prepares the folder if none."""
    listed = "".join(f"{text}\n" for text in texts)
    if (out / "encoder.json").exists():
        before = _about(out)
        same = {name: before.get(name) for name in about} == about
        if not same or (out / "captions.txt").read_text(encoding="utf-8") != listed:
            raise UserError(f"{out} holds other captions or another encoder's: choose another OUT")
        return before["done"]
    (out / "captions.txt").write_text(listed, encoding="utf-8")
    _write(out, about | {"done": 0})
    return 0


def _write(out: Path, about: dict[str, Any]) -> None:
    """Replaces the record at once, so that a kill leaves the old or the new one."""
    partial = out / ".encoder.json"
    partial.write_text(json.dumps(about, indent=1))
    partial.replace(out / "encoder.json")


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        return {"done": int(about["done"])} | {
            "encoder": str(about["encoder"]),
            **{name: int(about[name]) for name in ("length", "dim", "count")},
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is no folder of captions made by gen.encode text ({error!r})"
        ) from None


def load(folder: str | Path) -> CaptionSet:
    """Opens what `encode` wrote.

    Raises:
      UserError: the folder is missing, unfinished or damaged.
    """
    folder = Path(folder)
    about = _about(folder)
    if about["done"] != about["count"]:
        raise UserError(
            f"{folder} is unfinished ({about['done']} of {about['count']} captions): "
            "run gen.encode text again with the same arguments"
        )
    arrays = {}
    for field, file in FILES.items():
        try:
            arrays[field] = np.load(folder / file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / file} cannot be read: {error}") from None
    wanted = (about["count"], about["length"])
    shapes = (arrays["caption"].shape, arrays["caption_valid"].shape)
    texts = read_texts(folder / "captions.txt")
    if shapes != ((*wanted, about["dim"]), wanted) or len(texts) != about["count"]:
        raise UserError(
            f"{folder} is damaged: its arrays have shapes {shapes}, not as encoder.json"
        )
    return CaptionSet(texts, arrays["caption"], arrays["caption_valid"], about["encoder"])


def t5_encoder(name: str, *, length: int) -> tuple[Encoder, int]:
    """A T5 encoder from a Hugging Face name or folder, and the width of its features.

    Captions are lower-cased and stripped, cut at `length` word pieces, the end mark included.
    Source: FoundationVision/LlamaGen, `language/t5.py`, without its cleaning of web text.

    Raises:
      UserError: the `torch` extra is not installed, or there is no such encoder.
    """
    try:
        import torch
        from transformers import AutoTokenizer, T5EncoderModel
    except ImportError as error:
        raise UserError(
            f"encoding text needs the torch extra ({error}): pip install 'gen[torch]', "
            "or -e '.[torch]' in a checkout"
        ) from None
    try:
        pieces = AutoTokenizer.from_pretrained(name)
        model = T5EncoderModel.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f'no T5 encoder "{name}": {reason}') from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # T5 overflows in float16; bfloat16 is what the reference runs on GPUs.
    model = model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)

    def encode_batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        found = pieces(
            [text.lower().strip() for text in texts],
            max_length=length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).to(device)
        with torch.no_grad():
            hidden = model(input_ids=found.input_ids, attention_mask=found.attention_mask)
        return hidden.last_hidden_state.float().cpu().numpy(), found.attention_mask.cpu().numpy()

    return encode_batch, int(model.config.d_model)
