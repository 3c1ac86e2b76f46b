"""Distillation of one classifier's predictions into another (SimCLR v2)."""

import jax
import jax.numpy as jnp

from byoljax.losses.clustering import cross_entropy_soft


def distillation(
  student_logits: jax.Array, teacher_logits: jax.Array, temperature: float | jax.Array
) -> jax.Array:
  """-sum_y P_t(y|x; T) log P_s(y|x; T) (SimCLR v2, arXiv 2006.10029, equation 2).

  Without the factor T^2 of Hinton et al. (2015) and of one of the authors' notebooks, which keeps
  the scale of the gradients independent of T: the method may apply it.

  Args:
    student_logits: [b,C], any float dtype; the computation is float32.
    teacher_logits: [b,C]; constants.
    temperature: T > 0 of both.

  Returns:
    float32 [b], per example.

  Raises:
    ValueError: the logits are not both [b,C], or T <= 0.
  """
  teacher = jax.lax.stop_gradient(teacher_logits.astype(jnp.float32))
  targets = jax.nn.softmax(teacher / temperature, axis=-1)
  return cross_entropy_soft(targets, student_logits, temperature)
