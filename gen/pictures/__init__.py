"""Pictures of samples, still and moving, and of training curves, drawn with Pillow alone."""

from gen.pictures.base import save
from gen.pictures.curves import save_curves
from gen.pictures.grids import save_grid, tokens_to_gray
from gen.pictures.movies import save_frames, save_gif, save_mp4, save_strips
from gen.pictures.stacks import save_stacks

__all__ = [
    "save",
    "save_curves",
    "save_frames",
    "save_gif",
    "save_grid",
    "save_mp4",
    "save_stacks",
    "save_strips",
    "tokens_to_gray",
]
