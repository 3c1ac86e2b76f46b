"""A reader that knows the traces, and nothing else: numbers of two tiles, and a linear classifier.

It takes a second where a network takes minutes, and is what the default tests use.
"""

import numpy as np

_LEAST = 1e-3


def pair_features(tiles: np.ndarray, order: np.ndarray) -> np.ndarray:
  """What a trace would be read from: float64 [8 * b, 32].

  Of both tiles, their brightness and deviation and the shifts of red and blue against green; of the
  pair, how badly each side and corner of the one fits the opposite one of the other.

  Args:
    tiles: float [n, b, s, s, 3].
    order: int [8, b, 2], the tiles of each pair.
  """
  tiles = tiles.astype(np.float64)
  rows = np.arange(tiles.shape[1])
  single = np.concatenate([_level(tiles), _shifts(tiles)], axis=-1)
  first, second = order[..., 0], order[..., 1]
  a, b = tiles[first, rows], tiles[second, rows]
  found = [single[first, rows], single[second, rows], _misfits(a, b)]
  return np.concatenate(found, axis=-1).reshape(-1, 2 * single.shape[-1] + 8)


def held_out_accuracy(features: np.ndarray, labels: np.ndarray, images: int) -> float:
  """Linear discriminant analysis, fitted to the first half of the images, tried on the others.

  Args:
    features: [8 * b, d], all pairs of direction 0 first.
    labels: int [8 * b].
    images: b.
  """
  fitted = np.tile(np.arange(images) < images // 2, len(labels) // images)
  # What differs by less than a thousandth (of a pixel, of a deviation) is rounding.
  scale = np.maximum(features[fitted].std(0), _LEAST)
  features = features / scale
  classes = np.unique(labels)
  means = np.stack([features[fitted & (labels == c)].mean(0) for c in classes])
  inside = features[fitted] - means[np.searchsorted(classes, labels[fitted])]
  covariance = inside.T @ inside / len(inside) + 1e-3 * np.eye(features.shape[1])
  weights = np.linalg.solve(covariance, means.T)
  scores = features[~fitted] @ weights - 0.5 * np.sum(means.T * weights, axis=0)
  return float(np.mean(classes[scores.argmax(1)] == labels[~fitted]))


def _level(tiles: np.ndarray) -> np.ndarray:
  return np.concatenate([tiles.mean((-3, -2)), tiles.std((-3, -2))], axis=-1)


def _shifts(tiles: np.ndarray) -> np.ndarray:
  """By how many pixels red and blue lie against green, [..., 4]: least squares on its gradient."""
  green = tiles[..., 1]
  slopes = np.stack([np.gradient(green, axis=axis) for axis in (-2, -1)], axis=-1)
  slopes = slopes.reshape(*green.shape[:-2], -1, 2)
  normal = np.swapaxes(slopes, -1, -2) @ slopes + 1e-9 * np.eye(2)
  found = []
  for channel in (0, 2):
    change = (tiles[..., channel] - green).reshape(*green.shape[:-2], -1, 1)
    found.append(np.linalg.solve(normal, np.swapaxes(slopes, -1, -2) @ change)[..., 0])
  return np.concatenate(found, axis=-1)


def _misfits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Mean absolute differences where a would touch b if it lay in each direction, [..., 8]."""
  gray_a, gray_b = a.mean(-1), b.mean(-1)
  start, end, whole = slice(0, 1), slice(-1, None), slice(None)
  # Above: a's last row meets b's first.
  of_a, of_b = {-1: end, 0: whole, 1: start}, {-1: start, 0: whole, 1: end}
  found = [
    np.abs(gray_a[..., of_a[y], of_a[x]] - gray_b[..., of_b[y], of_b[x]]).mean((-2, -1))
    for y in (-1, 0, 1)
    for x in (-1, 0, 1)
    if (y, x) != (0, 0)
  ]
  return np.stack(found, axis=-1)
