"""Boxes, codes and a feature map of boxes.npz, drawn by name; (x_min, y_min, x_max, y_max)."""

import numpy as np
import philox

GRIDS = ((7, 2), (3, 1), (2, 3))


def boxes(name: str, count: int) -> np.ndarray:
  """Boxes [count, 4] within 64 x 48, of which many overlap."""
  center = philox.uniform(f'{name} center', (count, 2), 12, 36)
  half = philox.uniform(f'{name} half', (count, 2), 3, 12)
  return np.concatenate([center - half, center + half], 1).astype(np.float32)


def everything() -> tuple[np.ndarray, ...]:
  """Boxes, others, codes, features [3, 12, 16] and regions of interest."""
  some, others = boxes('boxes', 60), boxes('others', 20)
  regions = boxes('regions', 5)
  # Beyond the map by less than its pixel, on its edge, and without an area.
  odd = np.array([[-1, -2, 20, 49], [0, 0, 64, 48], [30, 20, 30, 20], [60, 40, 66, 49]], np.float32)
  return (
    some,
    others,
    philox.uniform('codes', (20, 4), -30, 30),
    philox.uniform('features', (3, 12, 16), -1, 1),
    np.concatenate([regions, odd]),
  )
