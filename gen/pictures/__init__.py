"""Pictures of samples, still and moving, and of training curves, drawn with Pillow alone."""

from gen.pictures.curves import save_curves
from gen.pictures.grids import save_grid, tokens_to_gray
from gen.pictures.movies import save_gif, save_strips

__all__ = ["save_curves", "save_gif", "save_grid", "save_strips", "tokens_to_gray"]
