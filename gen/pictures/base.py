"""What all pictures share: colours, sizes, text, a blank sheet and how files are written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gen.errors import UserError

INK, GREY, FAINT, PAPER = (25, 25, 30), (110, 110, 118), (226, 226, 230), (255, 255, 255)
# All in pixels; the first two are font sizes.
TEXT, TITLE, MARGIN, LARGEST_SIDE = 13, 17, 16, 16384


def font_of(size: int) -> Any:
    """Pillow's built-in font, which draws only ASCII."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def save(path: Any, picture: Any, *, ending: str = "png", **options: Any) -> None:
    """Writes a Pillow picture; missing folders are made.

    Raises:
        UserError: the path has another ending or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != f".{ending}":
        kind = ending.upper()
        raise UserError(f"this picture is saved as {kind}; {path} should end in .{ending}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format=ending, **options)
    except OSError as error:
        raise UserError(f"cannot write the picture {path}: {error.strerror or error}") from error


def blank(width: int, height: int) -> Any:
    """An empty sheet; raises `UserError` where it would be too large."""
    from PIL import Image

    if max(width, height) > LARGEST_SIDE:
        raise UserError(f"a picture of {width} x {height} pixels is too large; draw less of it")
    return Image.new("RGB", (width, height), PAPER)


def text_width(text: str, font: Any) -> int:
    """Width in pixels of the text on one line."""
    return math.ceil(font.getlength(" ".join(str(text).split())))


def fit_text(text: str, font: Any, width: int) -> str:
    """The text on one line, shortened to the width with dots where it is too long."""
    text = " ".join(str(text).split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def write_title(picture: Any, title: str) -> None:
    """Writes the title at the top, shortened to the picture's width."""
    from PIL import ImageDraw

    font = font_of(TITLE)
    text = fit_text(title, font, picture.width - 2 * MARGIN)
    ImageDraw.Draw(picture).text((MARGIN, MARGIN - 2), text, font=font, fill=INK)
