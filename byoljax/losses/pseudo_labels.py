"""The loss of images without labels against labels that the network itself is sure of.

FixMatch: Sohn et al. 2020, arXiv 2001.07685, equation 4.
"""

import jax
from jax import lax
import jax.numpy as jnp


def confident_labels(logits: jax.Array, threshold: float) -> jax.Array:
  """The most probable class where its probability is at least `threshold`, else -1: int32 [b].

  Args:
    logits: [b, C], any float dtype; the computation is float32. No gradient.
    threshold: in [0, 1].
  """
  chances = jax.nn.softmax(lax.stop_gradient(logits).astype(jnp.float32), axis=-1)
  sure = jnp.max(chances, axis=-1) >= threshold
  return jnp.where(sure, jnp.argmax(chances, axis=-1), -1).astype(jnp.int32)


def pseudo_label_loss(weak: jax.Array, strong: jax.Array, threshold: float) -> jax.Array:
  """(1 / b) sum_i [max_c p_ic >= threshold] H(argmax_c p_ic, q_i), with p and q the softmax.

  The mean is over all rows, also those that are below the threshold: the loss grows as the network
  becomes sure.

  Args:
    weak: [b, C], logits of weakly augmented images; they get no gradient.
    strong: [b, C], logits of the same images strongly augmented.
    threshold: in [0, 1].

  Returns:
    float32 scalar >= 0, over this device's rows.

  Raises:
    ValueError: the shapes differ.
  """
  if weak.shape != strong.shape or weak.ndim != 2:
    raise ValueError(f'need two arrays of logits [b, C], got {weak.shape} and {strong.shape}')
  labels = confident_labels(weak, threshold)
  log_chances = jax.nn.log_softmax(strong.astype(jnp.float32), axis=-1)
  picked = jnp.take_along_axis(log_chances, jnp.maximum(labels, 0)[:, None], axis=-1)[:, 0]
  return -jnp.mean(jnp.where(labels >= 0, picked, 0.0))
