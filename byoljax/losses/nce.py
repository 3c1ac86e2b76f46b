"""Noise-contrastive estimation of instance discrimination (Wu et al. 2018, arXiv 1805.01978).

Every image is a class, P(i|v) = e^{v_i.v/T} / Z with a Z that is estimated once; the noise is K
images drawn uniformly from all n.

Different from the authors' code: computed from logits, in log P instead of P, so that a small T
neither overflows nor loses precision. The values are equal otherwise, including their epsilon.
"""

import math

import jax
import jax.numpy as jnp


def nce(
  pos_logit: jax.Array,
  noise_logits: jax.Array,
  log_z: float | jax.Array,
  num_noise: int,
  num_examples: int,
  eps: float = 1e-7,
) -> jax.Array:
  """-log P/(P + K/n) - sum_j log (K/n)/(P_j + K/n), P = e^logit / Z (arXiv 1805.01978, eq. 6-7).

  Args:
    pos_logit: v_i.v/T of every example's own entry [b].
    noise_logits: v_j.v/T of its K noise entries [b,K]. -inf excludes an entry, such as the
      example's own, which uniform noise may contain.
    log_z: log Z, scalar; the authors estimate Z = n * mean(e^logit) on the first batch.
    num_noise: K.
    num_examples: n, the size of the bank.
    eps: added to the denominators, as in the authors' code.

  Returns:
    float32 [b], per example, > 0. Gradients flow into the logits, and into log_z if it is traced:
    stop them at the call.

  Raises:
    ValueError: invalid shapes, or K or n below 1.
  """
  if pos_logit.ndim != 1 or noise_logits.shape != (pos_logit.shape[0], num_noise):
    raise ValueError(
      f'need pos_logit [b] and noise_logits [b,{num_noise}], got {pos_logit.shape} and '
      f'{noise_logits.shape}'
    )
  if num_noise < 1 or num_examples < 1:
    raise ValueError(f'need at least 1 noise entry and 1 example, got {num_noise}, {num_examples}')
  log_ratio = math.log(num_noise / num_examples)
  log_noise = math.log(num_noise / num_examples + eps)
  log_p = pos_logit.astype(jnp.float32) - log_z
  log_p_noise = noise_logits.astype(jnp.float32) - log_z
  # log(P + c) = log c + softplus(log P - log c), finite in value and gradient even at P = 0.
  from_data = log_p - log_noise - jax.nn.softplus(log_p - log_noise)
  from_noise = log_ratio - log_noise - jax.nn.softplus(log_p_noise - log_noise)
  return -from_data - jnp.sum(from_noise, axis=1)
