"""Losses with soft assignments as targets: swapped prediction (SwAV), self-distillation (DINO).

Both average a cross-entropy over all pairs of an assigned crop and another crop. Every assigned
crop has the same number of partners, so SwAV's mean over partners and then over crops, and DINO's
mean over pairs, are the same formula; the methods differ in how targets are computed.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from byoljax.losses.contrastive import check_temperature


def cross_entropy_soft(
  targets: jax.Array, scores: jax.Array, temperature: float | jax.Array
) -> jax.Array:
  """-sum_k t_k log softmax(s / T)_k.

  Args:
    targets: probabilities [b,K], rows that sum to 1. Not constants: stop their gradient at the
      call.
    scores: logits [b,K], any float dtype; the computation is float32.
    temperature: T > 0.

  Returns:
    float32 [b], each at least the entropy of its target.

  Raises:
    ValueError: targets and scores are not both [b,K], or T <= 0.
  """
  if targets.ndim != 2 or targets.shape != scores.shape:
    raise ValueError(
      f'need targets and scores of one shape [b,K], got {targets.shape} and {scores.shape}'
    )
  return -jnp.sum(targets.astype(jnp.float32) * _log_softmax(scores, temperature), axis=-1)


def swapped_prediction(
  codes: Sequence[jax.Array], scores: Sequence[jax.Array], temperature: float | jax.Array
) -> jax.Array:
  """Mean over assigned crops i and crops v != i of -q_i . log softmax(s_v / T) (SwAV, eq. 2).

  arXiv 2006.09882; with more than two crops as in its section on multi-crop.

  Args:
    codes: assignments of the first crops, each [b,K], rows that sum to 1; constants.
    scores: prototype scores of all crops, each [b,K], the assigned ones first in the same order.
    temperature: T > 0; .1 in the paper.

  Returns:
    float32 scalar >= 0: mean over this device's b rows.

  Raises:
    ValueError: fewer than two crops, more codes than crops, invalid shapes, or T <= 0.
  """
  return _mean_over_other_crops(codes, scores, temperature)


def self_distillation(
  teacher: Sequence[jax.Array], student: Sequence[jax.Array], temperature: float | jax.Array
) -> jax.Array:
  """Mean over global crops i and crops v != i of -P_t(i) . log P_s(v) (DINO, 2104.14294, eq. 3).

  Args:
    teacher: centered and sharpened probabilities of the global crops, each [b,K]; constants.
    student: logits of all crops, each [b,K], the global ones first in the same order.
    temperature: the student's T > 0; .1 in the paper.

  Returns:
    float32 scalar >= 0: mean over this device's b rows.

  Raises:
    ValueError: fewer than two crops, more teacher crops than crops, invalid shapes, or T <= 0.
  """
  return _mean_over_other_crops(teacher, student, temperature)


def _mean_over_other_crops(
  targets: Sequence[jax.Array], scores: Sequence[jax.Array], temperature: float | jax.Array
) -> jax.Array:
  if not 1 <= len(targets) <= len(scores) or len(scores) < 2:
    raise ValueError(
      f'need targets for 1 or more of at least 2 crops, got {len(targets)} targets and '
      f'{len(scores)} crops'
    )
  shape = scores[0].shape
  if len(shape) != 2 or any(x.shape != shape for x in (*targets, *scores)):
    shapes = [x.shape for x in (*targets, *scores)]
    raise ValueError(f'targets and scores of all crops must have one shape [b,K], got {shapes}')
  constants = [jax.lax.stop_gradient(target.astype(jnp.float32)) for target in targets]
  total = jnp.zeros((), jnp.float32)
  for v, crop in enumerate(scores):
    # Sum the targets first, so that a crop's log-probabilities are computed and read only once.
    partners = [target for i, target in enumerate(constants) if i != v]
    if partners:
      total -= jnp.sum(sum(partners[1:], partners[0]) * _log_softmax(crop, temperature))
  return total / (len(targets) * (len(scores) - 1) * shape[0])


def _log_softmax(scores: jax.Array, temperature: float | jax.Array) -> jax.Array:
  check_temperature(temperature)
  return jax.nn.log_softmax(scores.astype(jnp.float32) / temperature, axis=-1)
