"""Images without content: noise, and one trace of where in the image a tile was.

The noise is white, smoothed over 5 pixels: pixels that are further apart have nothing to do with
each other, so that without the trace tiles with a gap of 6 pixels are independent, and nobody can
tell where they were.

    aberration   red and blue are magnified against green, from the center of the image
    continuity   the noise alone: it goes on across the border of tiles that touch
    brightness   a ramp, down and less so to the right
    none         the noise alone
"""

import numpy as np

SIDE = 60  # pixels
_REACH = 2.5  # of the smoothing kernel, in pixels
_STEP = 0.5  # between the points of the white noise, in pixels
_MAGNIFIED = 0.08  # red and blue: 1.6 pixels at the center of an outer tile
CUES = ('aberration', 'continuity', 'brightness', 'none')


def images(cue: str, count: int, seed: int, size: int = SIDE) -> np.ndarray:
  """Images with one trace: float32 [count, size, size, 3], around 0 with a deviation of about 1.

  Args:
    cue: one of `CUES`.
    count: how many.
    seed: of the noise.
    size: side in pixels.

  Raises:
    ValueError: an unknown cue.
  """
  if cue not in CUES:
    raise ValueError(f'cue {cue!r} is not one of {", ".join(CUES)}')
  rng = np.random.default_rng(seed)
  points = np.arange(-0.2 * size, 1.2 * size, _STEP, dtype=np.float32)
  white = rng.normal(size=(count, len(points), len(points))).astype(np.float32)
  center = (size - 1) / 2
  place = np.arange(size) - center

  def plane(magnified: float) -> np.ndarray:
    # A pixel shows what lies nearer to the center.
    distance = np.abs((center + place / magnified)[:, None] - points[None])
    kernel = np.where(distance < _REACH, 1 + np.cos(np.pi * distance / _REACH), 0.0)
    kernel = (kernel / np.sqrt((kernel**2).sum(1, keepdims=True))).astype(np.float32)
    return np.matmul(np.matmul(kernel, white), kernel.T)

  green = plane(1.0)
  other = plane(1.0 + _MAGNIFIED) if cue == 'aberration' else green
  found = np.stack([other, green, other], axis=-1)
  if cue == 'brightness':
    ramp = 3.0 * place[:, None] / size + 1.0 * place[None] / size
    found = found * 0.5 + ramp[None, :, :, None].astype(np.float32)
  return found
