"""Cross-entropy and top-k accuracy for probes, fine-tuning and evaluation.

Rows without a label (negative) are ignored. Given the mapped axis, the mean over devices of what
each of them gets is that over the valid rows of all, however these are spread over the devices.
"""

import jax
import jax.numpy as jnp

from byoljax.devices import collectives


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  mask: jax.Array | None = None,
  *,
  axis: str | None = None,
) -> jax.Array:
  """Mean of -log softmax(logits)[label] over the valid rows.

  Args:
    logits: [b,C], any float dtype; the computation is float32.
    labels: integer [b], below C; negative for no label, and the row is ignored.
    mask: bool [b], False for rows to ignore (padding).
    axis: the mapped axis whose devices share the mean; None: the mean of this device's rows.

  Returns:
    float32 scalar >= 0; 0, with zero gradient, if no row is valid.

  Raises:
    ValueError: invalid shapes or types.
  """
  valid = _valid_rows(logits, labels, mask)
  # Replaced, not multiplied by 0: a padded row may hold inf or nan, and 0 * nan is nan.
  logits = jnp.where(valid[:, None], logits.astype(jnp.float32), 0.0)
  log_probabilities = jax.nn.log_softmax(logits, axis=-1)
  picked = jnp.take_along_axis(log_probabilities, jnp.maximum(labels, 0)[:, None], axis=-1)[:, 0]
  return -jnp.sum(jnp.where(valid, picked, 0.0)) / _count(valid, axis)


def smoothed(labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
  """Labels as distributions: 1 - smoothing on the label and smoothing / C on every class, float32.

  Label smoothing, Szegedy et al. 2015 (arXiv 1512.00567), section 7. Rows without a label are zero.

  Args:
    labels: integer [b]; negative for no label.
    classes: C.
    smoothing: in [0, 1).
  """
  known = (labels >= 0).astype(jnp.float32)[:, None]
  return jax.nn.one_hot(labels, classes) * (1.0 - smoothing) + known * (smoothing / classes)


def soft_cross_entropy(
  logits: jax.Array, targets: jax.Array, *, axis: str | None = None
) -> jax.Array:
  """Mean over rows of -sum_c target_c log softmax(logits)_c, float32.

  Args:
    logits: [b,C], any float dtype; the computation is float32.
    targets: float [b,C]; rows of zeros do not count.
    axis: as for `cross_entropy`.

  Raises:
    ValueError: the shapes differ.
  """
  if logits.shape != targets.shape:
    raise ValueError(f'need logits and targets [b,C], got {logits.shape} and {targets.shape}')
  each = -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1), axis=-1)
  return jnp.sum(each) / _count(targets.sum(-1) > 0, axis)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Sum over classes of the binary cross-entropy, for images with several labels each.

  Args:
    logits: [b,C], any float dtype; the computation is float32.
    labels: integer [b,C]: 1 present, 0 absent, negative to ignore.

  Returns:
    float32 scalar >= 0: the mean over this device's rows.

  Raises:
    ValueError: the shapes differ.
  """
  if logits.shape != labels.shape:
    raise ValueError(f'need logits and labels [b,C], got {logits.shape} and {labels.shape}')
  logits = logits.astype(jnp.float32)
  each = jax.nn.softplus(logits) - logits * (labels > 0)
  return jnp.mean(jnp.sum(jnp.where(labels >= 0, each, 0.0), axis=-1))


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
  """Whether each row's label is among its k largest logits: bool [b].

  Ties are broken by class number, so constant logits are correct for class 0 only. A NaN logit
  outranks all others, so a diverged classifier is never correct by accident. False where the label
  is negative. No gradient.
  """
  if k < 1:
    raise ValueError(f'top-k accuracy needs k of at least 1, got {k}')
  valid = _valid_rows(logits, labels, None)
  logits = logits.astype(jnp.float32)
  own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=-1)
  before = jnp.arange(logits.shape[-1])[None, :] < labels[:, None]
  ahead = ~(logits <= own) | ((logits == own) & before)
  return (jnp.sum(ahead, axis=-1) < k) & valid


def accuracy(
  logits: jax.Array,
  labels: jax.Array,
  k: int = 1,
  mask: jax.Array | None = None,
  *,
  axis: str | None = None,
) -> jax.Array:
  """Fraction of the valid rows whose label is among their k largest logits, in [0, 1].

  Arguments as for `cross_entropy` and `top_k_correct`. To pool over devices or batches, sum
  `top_k_correct` instead.
  """
  valid = _valid_rows(logits, labels, mask)
  correct = jnp.sum(top_k_correct(logits, labels, k) & valid)
  return correct.astype(jnp.float32) / _count(valid, axis)


def _count(valid: jax.Array, axis: str | None) -> jax.Array:
  """What a sum over this device's valid rows is divided by; 1 where there are none at all."""
  count = collectives.pmean(jnp.sum(valid, dtype=jnp.float32), axis)
  return jnp.where(count > 0, count, 1.0)


def _valid_rows(logits: jax.Array, labels: jax.Array, mask: jax.Array | None) -> jax.Array:
  """The valid rows, bool [b], after checking the shapes."""
  if logits.ndim != 2 or labels.shape != logits.shape[:1]:
    raise ValueError(
      f'need logits [b,C] and labels [b], got logits {logits.shape} and labels {labels.shape}'
    )
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f'labels must be integers, got {labels.dtype}')
  if mask is not None and mask.shape != labels.shape:
    raise ValueError(f'mask must be [b] like the labels {labels.shape}, got {mask.shape}')
  return labels >= 0 if mask is None else mask.astype(bool) & (labels >= 0)
