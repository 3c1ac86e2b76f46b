"""Curves of series as pictures; NumPy, on the host."""

import numpy as np

# One for each channel, in turn; those of Okabe and Ito, which the color-blind tell apart.
_COLORS = (
  (0.0, 0.447, 0.698), (0.835, 0.369, 0.0), (0.0, 0.62, 0.451), (0.8, 0.475, 0.655),
  (0.902, 0.624, 0.0), (0.337, 0.706, 0.914),
)  # fmt: skip
_WIDTH, _HEIGHT = 128, 64


def draw(series: np.ndarray, height: int = _HEIGHT, width: int = _WIDTH) -> np.ndarray:
  """Series in [0, 1], one color a channel, on white: [b, T, C] -> float32 [b, height, width, 3].

  Lines of about one pixel between neighboring steps; channels that come later are drawn over those
  before them.
  """
  steps = series.shape[1]
  times = np.linspace(0.0, steps - 1, width + 1)
  before = np.floor(times).astype(int)
  after, share = np.minimum(before + 1, steps - 1), (times - before)[None, :, None]
  y = (1.0 - share) * series[:, before] + share * series[:, after]
  # Rows from the top, [b, width + 1, C]; a column's line spans what lies between its two ends.
  y = (1.0 - np.clip(y, 0.0, 1.0)) * (height - 1)
  top = np.minimum(y[:, :-1], y[:, 1:]) - 0.5
  bottom = np.maximum(y[:, :-1], y[:, 1:]) + 0.5
  rows = np.arange(height)[None, :, None, None]
  inside = (rows >= top[:, None]) & (rows <= bottom[:, None])
  picture = np.ones((len(series), height, width, 3), np.float32)
  for channel in range(series.shape[2]):
    picture[inside[..., channel]] = _COLORS[channel % len(_COLORS)]
  return picture
