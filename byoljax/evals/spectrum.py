"""Has an encoder collapsed? Exact metrics of the features of a whole data set.

While training, `evals.collapse` monitors one batch; this module uses all features [N, D] at once,
on the host in float64. Two kinds of collapse (Jing et al., "Understanding Dimensional Collapse in
Contrastive Self-supervised Learning", arXiv 2110.09348): complete, all images have the same
features, and dimensional, features span only a few directions, which the singular values show.

Everything except the dead dimensions is computed on L2-normalized rows u_i, because k-NN and most
losses use the cosine.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from byoljax.evals.hypersphere import unit

# Thresholds of the verdict, for features of N images in D dimensions. Isotropic features have
# spread 1 and, centered, an effective rank of nearly min(N - 1, D).
COLLAPSED_STD = 0.05
DIMENSIONAL_SHARE = 0.1
# A dimension that varies this much less than the others carries no information.
DEAD_SHARE = 0.01


def measure(features: np.ndarray) -> dict[str, Any]:
  """Collapse metrics of features [N, D], N >= 2.

  Returns:
    'images' N, 'dimensions' D;
    'std': sqrt(D) * mean_d std_i(u_id), in [0, 1], 1 for isotropic features (the definition of
      `collapse.normalized_std`);
    'effective_rank': exp of the entropy of the singular values of [u_i], divided by their sum (Roy
      & Vetterli 2007; `collapse.effective_rank`);
    'centered_rank': the same of [u_i - mean u], which is independent of a common offset;
    'mean_cosine': over all pairs i < j;
    'dead': dimensions d with std_i(x_id) under 1 % of the root mean square over d;
    'std_by_dimension': std_i(u_id) * sqrt(D), descending;
    'spectrum': singular values of [u_i - mean u] / sqrt(N), descending, min(N, D) of them: the
      standard deviations along the principal axes.

  Raises:
    ValueError: fewer than two rows, or features that are not finite.
  """
  if features.ndim != 2 or len(features) < 2:
    raise ValueError(f'need at least two features [N, D], got {features.shape}.')
  if not np.isfinite(features).all():
    raise ValueError('some features are NaN or infinite: the encoder may have diverged.')
  count, size = features.shape
  x = np.asarray(features, np.float64)
  raw = x.std(0)
  rms = np.sqrt(np.mean(np.square(raw)))
  u = unit(x)
  mean = u.mean(0)
  spread = u.std(0) * np.sqrt(size)
  # |sum_i u_i|^2 is the sum of all cosines, including those of the N rows with themselves.
  own = np.sum(np.square(u))
  cosine = (np.sum(np.square(u.sum(0))) - own) / (count * (count - 1))
  spectrum = _singular_values(u - mean) / np.sqrt(count)
  return {
    'images': count,
    'dimensions': size,
    'std': float(spread.mean()),
    'effective_rank': _effective_rank(_singular_values(u)),
    'centered_rank': _effective_rank(spectrum),
    'mean_cosine': float(cosine),
    'dead': int(np.sum(raw <= DEAD_SHARE * rms)),
    'std_by_dimension': np.sort(spread)[::-1].tolist(),
    'spectrum': spectrum.tolist(),
  }


def verdict(measured: Mapping[str, Any]) -> str:
  """'collapsed', 'low rank' or 'healthy', by the thresholds that `summary` states.

  Collapsed: the spread `std` is below 0.05. Low rank, or dimensional collapse: the centered
  effective rank is below a tenth of its maximum, min(N - 1, D).
  """
  if measured['std'] < COLLAPSED_STD:
    return 'collapsed'
  return (
    'low rank' if measured['centered_rank'] < DIMENSIONAL_SHARE * _most(measured) else 'healthy'
  )


def summary(taps: Mapping[str, Mapping[str, Any]]) -> str:
  """One sentence about a run, with the numbers and thresholds that it is based on.

  A run has collapsed if any of its taps has: losses use the projection, which collapses first. The
  rank is judged at the first tap, the embedding; heads may use few directions, which is mentioned.
  None of this measures the quality of the features.

  Args:
    taps: tap -> result of `measure`, in the order of computation.
  """
  kinds = {tap: verdict(measured) for tap, measured in taps.items()}
  collapsed = [
    f'{tap} {taps[tap]["std"]:.3f}' for tap, kind in kinds.items() if kind == 'collapsed'
  ]
  share = f'{DIMENSIONAL_SHARE:.0%}'
  if collapsed:
    return (
      f'Collapsed: all images have nearly the same features (spread below {COLLAPSED_STD:g}, where '
      f'isotropic features have 1: {", ".join(collapsed)}).'
    )
  first, measured = next(iter(taps.items()))
  of = f'effective rank {measured["centered_rank"]:.1f} of at most {_most(measured)}'
  if kinds[first] == 'low rank':
    return (
      f'Dimensional collapse: the {first} uses only a few directions ({of}, below '
      f'{share} of it), although images differ (spread {measured["std"]:.2f}).'
    )
  few = [
    f'{tap} {taps[tap]["centered_rank"]:.1f}' for tap, kind in kinds.items() if kind != 'healthy'
  ]
  heads = f' Heads with few directions, which is harmless: {", ".join(few)}.' if few else ''
  return (
    f'Not collapsed: the spread is {min(each["std"] for each in taps.values()):.2f} or more '
    f'(collapsed below {COLLAPSED_STD:g}), the {first} has {of} (low below {share} of it).{heads}'
  )


def _most(measured: Mapping[str, Any]) -> int:
  """The maximum rank of centered features."""
  return min(measured['images'] - 1, measured['dimensions'])


def _singular_values(x: np.ndarray) -> np.ndarray:
  """Of [N, D] in float64, descending, min(N, D) of them."""
  if min(x.shape) <= 2048 and max(x.shape) <= 4 * min(x.shape):
    return np.linalg.svd(x, compute_uv=False)
  # Squaring loses values below 1e-8 of the largest, but an SVD of all rows would take minutes.
  moment = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
  return np.sqrt(np.maximum(np.linalg.eigvalsh(moment)[::-1], 0.0))


def _effective_rank(singular: np.ndarray) -> float:
  if not np.any(singular > 0):
    return 0.0
  p = singular[singular > 0] / singular.sum()
  return float(np.exp(-np.sum(p * np.log(p))))
