"""Equal assignment of a batch to prototypes by the Sinkhorn-Knopp iteration (SwAV, DINOv2).

Different from the authors' code: it runs in log space, so that no score overflows for any epsilon,
and a prototype far from every example causes no division by zero.
"""

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives

Potentials = tuple[jax.Array, list[jax.Array]]


def assign(
  scores: jax.Array,
  *,
  epsilon: float,
  iterations: int,
  axis: str | None = None,
  extra: jax.Array | None = None,
) -> jax.Array:
  """Q = diag(u) exp(S / epsilon) diag(v), nearly equal mass per prototype (SwAV, eq. 3-5).

  arXiv 2006.09882. An iteration normalizes prototypes first and examples second, so the masses of
  examples are exactly equal and those of prototypes approximately.

  Args:
    scores: this device's similarities to the prototypes [b,K], any float dtype.
    epsilon: > 0; smaller is sharper. .05 in SwAV.
    iterations: >= 1; 3 in SwAV.
    axis: the mapped axis, or None for one device; the prototypes' masses are over the global batch.
    extra: scores [m,K] of queued examples, the same on all devices; each counts once.

  Returns:
    float32 [b,K] without the rows of `extra`; each row sums to 1. No gradient.

  Raises:
    ValueError: invalid shapes, epsilon <= 0, or no iteration.
  """
  if scores.ndim != 2 or (extra is not None and extra.shape[1:] != scores.shape[1:]):
    raise ValueError(
      f'need scores [b,K] and extra [m,K], got {scores.shape} and '
      f'{None if extra is None else extra.shape}'
    )
  if not epsilon > 0 or iterations < 1:
    raise ValueError(
      f'need epsilon above 0 and at least 1 iteration, got {epsilon} and {iterations}'
    )
  groups = [scores] if extra is None else [scores, extra]
  logs = [lax.stop_gradient(group.astype(jnp.float32)) / epsilon for group in groups]

  def iterate(_: jax.Array, potentials: Potentials) -> Potentials:
    _, examples = potentials
    # The constant factors 1/K and 1/B of the published iteration cancel in the next normalization.
    masses = [
      jax.nn.logsumexp(log - example, axis=0, keepdims=True)
      for log, example in zip(logs, examples, strict=True)
    ]
    masses[0] = collectives.all_gather(masses[0], axis)
    prototypes = jax.nn.logsumexp(jnp.concatenate(masses), axis=0, keepdims=True)
    return prototypes, [jax.nn.logsumexp(log - prototypes, axis=1, keepdims=True) for log in logs]

  initial = jnp.zeros((1, scores.shape[1])), [jnp.zeros((log.shape[0], 1)) for log in logs]
  prototypes, examples = lax.fori_loop(0, iterations, iterate, initial)
  return jnp.exp(logs[0] - prototypes - examples[0])
