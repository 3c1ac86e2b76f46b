"""Anchors: the boxes that a detector's proposals are told beside, a few at every place of a map."""

from collections.abc import Sequence

import numpy as np

RATIOS = (0.5, 1.0, 2.0)


def of_maps(
  sizes: Sequence[tuple[int, int]],
  image: tuple[int, int],
  scales: Sequence[float],
  ratios: Sequence[float] = RATIOS,
) -> np.ndarray:
  """Anchors of several maps of an image, float32 [A, 4] in pixels (Ren et al., arXiv 1506.01497).

  Map by map, row by row, at each place every scale with every ratio, centered on the place. An
  anchor of scale s and ratio r has the area (s * stride)^2 and height / width = r. None is clipped:
  those of places near the edge reach beyond the image.

  Args:
    sizes: (h, w) of each map.
    image: (H, W).
    scales: sides of the anchors, in strides: (8,) on each of several maps is a feature pyramid's,
      (2, 4, 8, 16, 32) on a map of stride 16 is the published one of a single map.
    ratios: heights over widths.
  """
  made = []
  for height, width in sizes:
    stride = np.array([image[0] / height, image[1] / width])
    sides = [
      np.array([scale * np.sqrt(ratio), scale / np.sqrt(ratio)]) * stride
      for scale in scales
      for ratio in ratios
    ]
    half = np.array(sides)[None, None] / 2
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing='ij')
    center = (np.stack([y, x], -1) * stride)[:, :, None]
    made.append(np.concatenate([center - half, center + half], -1).reshape(-1, 4))
  return np.concatenate(made).astype(np.float32)


def per_place(scales: Sequence[float], ratios: Sequence[float] = RATIOS) -> int:
  """How many anchors a place has."""
  return len(scales) * len(ratios)
