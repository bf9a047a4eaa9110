"""`python -m gen.images FOLDER`: an example of a folder of images, to try things out with.

Writes PNGs of coloured shapes in class folders, as users would bring their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gen.command_line import Parser
from gen.errors import UserError, ensure_writable, exit_on_user_error
from gen.images.shapes import SHAPES, draw


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    from PIL import Image

    parser = Parser(prog="python -m gen.images", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder to write; must not be there yet, or be empty")
    parser.add_argument("--num", type=int, default=200, help="images in all (default: 200)")
    parser.add_argument("--size", type=int, default=32, help="side in pixels (default: 32)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.num < len(SHAPES) or args.size < 8:
        raise UserError(f"--num is at least {len(SHAPES)}, --size at least 8")
    if args.seed < 0:
        raise UserError(f"--seed is at least 0, not {args.seed}")
    root = Path(args.folder)
    if root.is_dir() and any(root.iterdir()):
        raise UserError(f"{root} is not empty: name another folder")
    for number in range(args.num):
        name = SHAPES[number % len(SHAPES)]
        folder = ensure_writable(root / name)
        pixels = draw(name, args.size, seed=(args.seed, number))
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")
    print(f"{args.num} images of {args.size} x {args.size} pixels in {root}: {', '.join(SHAPES)}")


if __name__ == "__main__":
    main(sys.argv[1:])
