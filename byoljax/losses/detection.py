"""What a detector's two stages learn: is there something, what is it, and where exactly.

Faster R-CNN's multi-task loss (Ren et al., arXiv 1506.01497, equation 1; Girshick, arXiv
1504.08083, equation 1), of one image; a batch's is the mean of its images'. Different from the
authors' code and Detectron's: sums are divided by the number of boxes that were drawn in the image,
not by how many were asked for over the batch, so that small images with few anchors count alike and
the loss does not depend on how images are batched.
"""

import jax
import jax.numpy as jnp

from byoljax.losses import classification
from byoljax.ops import boxes as boxes_lib
from byoljax.ops.proposals import BOX_WEIGHTS


def smooth_l1(difference: jax.Array, beta: float) -> jax.Array:
  """x^2 / (2 beta) within beta of 0, |x| - beta / 2 beyond it (Girshick, equation 3, for beta 1).

  Args:
    difference: any shape, float32.
    beta: > 0; a small one is the absolute value but for its bend.
  """
  size = jnp.abs(difference)
  return jnp.where(size < beta, size * size / (2 * beta), size - beta / 2)


def first_stage(
  objectness: jax.Array,
  codes: jax.Array,
  anchors: jax.Array,
  targets: jax.Array,
  positive: jax.Array,
  there: jax.Array,
  *,
  beta: float = 1 / 9,
) -> tuple[jax.Array, jax.Array]:
  """Losses of the anchors that were drawn: (of being something, of the box).

  Args:
    objectness: float32 [r], logits.
    codes: float32 [r, 4].
    anchors: float32 [r, 4].
    targets: float32 [r, 4], the object's box, where there is one.
    positive: bool [r].
    there: bool [r]; what is not there costs nothing.
    beta: of `smooth_l1`.

  Returns:
    Two float32 scalars: the mean binary cross-entropy, and the sum of the positive ones' smooth L1
    over the same number.
  """
  label = positive.astype(jnp.float32)
  # log(1 + exp(x)) - y x, which is finite for every x.
  each = jax.nn.softplus(objectness) - label * objectness
  count = jnp.maximum(there.sum(), 1)
  wanted = boxes_lib.encode(targets, anchors)
  distance = smooth_l1(codes - wanted, beta).sum(-1)
  return (
    jnp.sum(jnp.where(there, each, 0.0)) / count,
    jnp.sum(jnp.where(there & positive, distance, 0.0)) / count,
  )


def second_stage(
  logits: jax.Array,
  codes: jax.Array,
  regions: jax.Array,
  targets: jax.Array,
  labels: jax.Array,
  there: jax.Array,
  *,
  beta: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Losses of the regions that were drawn: (of the class, of the box).

  Args:
    logits: float32 [r, C + 1], background last.
    codes: float32 [r, C, 4], for every class its own.
    regions: float32 [r, 4].
    targets: float32 [r, 4], the object's box, where there is one.
    labels: int32 [r] in [0, C]; C is background.
    there: bool [r]; what is not there costs nothing.
    beta: of `smooth_l1`.

  Returns:
    Two float32 scalars: the mean cross-entropy, and the sum of the objects' smooth L1 over the same
    number.
  """
  classes = codes.shape[1]
  of_class = classification.cross_entropy(logits, labels, there)
  own = jnp.minimum(labels, classes - 1)[:, None, None]
  code = jnp.take_along_axis(codes, own, axis=1)[:, 0]
  wanted = boxes_lib.encode(targets, regions, BOX_WEIGHTS)
  distance = smooth_l1(code - wanted, beta).sum(-1)
  total = jnp.sum(jnp.where(there & (labels < classes), distance, 0.0))
  return of_class, total / jnp.maximum(there.sum(), 1)
