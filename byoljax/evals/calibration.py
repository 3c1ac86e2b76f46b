"""Probabilities that can be taken at their word: temperature scaling and calibration error.

Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599): logits are divided by one
number T, fitted by maximum likelihood on images that the classifier was not trained on, which
changes no prediction; the expected calibration error compares confidence with accuracy in 15 bins.

Difference: labels count as 1 - e of their class and e / C of each, with e = 1 / (N + 2), Laplace's
rule of succession. Of a few images that are all right the likelihood alone would have T = 0, that
is, certainty. With thousands of images it makes no difference.

Logits and labels in, numbers out, on the host, in float64.
"""

from typing import Any

import numpy as np

from byoljax.ops import readouts

BINS = 15
# What T is looked for between; the objective is convex in 1 / T.
_RANGE = (0.01, 100.0)
_HALVINGS = 50


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """float64 [N, C]."""
  shifted = np.asarray(logits, np.float64)
  shifted = shifted - shifted.max(1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
  """softmax(logits / T), float64 [N, C]."""
  return np.exp(log_softmax(np.asarray(logits, np.float64) / temperature))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
  """The temperature T of lowest cross-entropy of softmax(logits / T), see the module.

  Args:
    logits: finite, [N, C]; those of classes that were never learned are `readouts.NEVER`.
    labels: int [N]; -1 is left out, and what could not have been learned.

  Returns:
    T in [0.01, 100]; 1 without a labelled image.

  Examples:
    Right in two of three cases, whatever the logits say:
    >>> temperature = fit_temperature(np.array([[9.0, 0.0]] * 3000), np.array([0, 0, 1] * 1000))
    >>> print(round(float(probabilities([[9.0, 0.0]], temperature)[0, 0]), 2))
    0.67
  """
  z = np.asarray(logits, np.float64)
  possible = z > readouts.NEVER / 2
  known = labels >= 0
  known[known] = possible[known, labels[known]]
  count = int(known.sum())
  if not count:
    return 1.0
  z, possible, own = z[known], possible[known], labels[known]
  spare = 1 / (count + 2)
  mean = np.where(possible, z, 0.0).sum(1) / possible.sum(1)
  wanted = (1 - spare) * z[np.arange(count), own] + spare * mean

  def slope(inverse: float) -> float:
    """Of the cross-entropy, in 1 / T; it grows with it."""
    return float(np.mean((probabilities(z * inverse) * z).sum(1) - wanted))

  low, high = (np.log(1 / bound) for bound in _RANGE[::-1])
  for _ in range(_HALVINGS):
    middle = (low + high) / 2
    low, high = (middle, high) if slope(float(np.exp(middle))) < 0 else (low, middle)
  return float(np.exp(-(low + high) / 2))


def calibration_error(chances: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
  """Expected calibration error: sum over bins of n_b / N |accuracy_b - confidence_b|.

  Guo et al., equation 3. Bins are of equal width in the confidence, which is the largest
  probability; each holds its upper end.

  Args:
    chances: probabilities [N, C].
    labels: int [N]; -1 is left out.
    bins: at least 1.

  Raises:
    ValueError: no labelled image, or no bin.
  """
  known = labels >= 0
  if bins < 1 or not known.any():
    raise ValueError('a calibration error needs a labelled image and a bin.')
  confidence = chances[known].max(1)
  right = chances[known].argmax(1) == labels[known]
  place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  gaps = np.bincount(place, weights=right - confidence, minlength=bins)
  return float(np.abs(gaps).sum() / known.sum())


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
  """-log softmax(logits / T)[label], float64 [N], of labels int [N] >= 0."""
  every = log_softmax(np.asarray(logits, np.float64) / temperature)
  return -every[np.arange(len(labels)), labels]


def report(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, Any]:
  """Calibration of test images, as it is stored beside a result.

  Args:
    logits: [N, C], of images that neither the classifier nor T was fitted to.
    labels: int [N]; -1 is left out.
    temperature: T.

  Returns:
    {'temperature': T, 'ece': expected calibration error, 'ece_uncalibrated': with T = 1}.
  """
  return {
    'temperature': temperature,
    'ece': calibration_error(probabilities(logits, temperature), labels),
    'ece_uncalibrated': calibration_error(probabilities(logits), labels),
  }
