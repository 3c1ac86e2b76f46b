"""The term between BYOL and SimCLR (BYOL, arXiv 2006.07733, section 5 and appendix F.4).

With S(u, w) = cos(phi(u), psi(w)), both methods minimize

  -(2/B) sum_i S(v_i, v'_i) + beta (2 alpha / B) sum_i log(sum_{j != i} e^{S(v_i, v_j)/alpha}
                                                           + sum_j e^{S(v_i, v'_j)/alpha})

BYOL has phi = q(z_online), psi = z_target and beta = 0, SimCLR phi = psi = z_online and beta = 1.
The first term is `regression.cosine_regression` minus 2; this module has the second.
"""

import jax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.losses.contrastive import check_temperature
from byoljax.ops import sphere


def dispersion(
  p: jax.Array,
  own_view: jax.Array,
  other_view: jax.Array,
  alpha: float,
  *,
  axis: str | None = None,
) -> jax.Array:
  """Mean of 2 a log(sum_{j != i} e^{S(v_i, v_j)/a} + sum_j e^{S(v_i, w_j)/a}), w the other view.

  Args:
    p: phi of this device's view [b,D], any norm: normalized here.
    own_view: psi of the same view [b,D].
    other_view: psi of the other view [b,D].
    alpha: temperature > 0.
    axis: the mapped axis, over which psi is gathered, gradients included.

  Returns:
    float32 scalar: mean over this device's b rows.

  Raises:
    ValueError: invalid shapes, or alpha <= 0.
  """
  if p.ndim != 2 or not p.shape == own_view.shape == other_view.shape:
    raise ValueError(
      f'need p and both views of one shape [b,D], got {p.shape}, {own_view.shape} and '
      f'{other_view.shape}'
    )
  check_temperature(alpha)
  anchors, rows = sphere.normalize(p), p.shape[0]
  gathered = [
    collectives.all_gather(sphere.normalize(view), axis) for view in (own_view, other_view)
  ]
  similarity = sphere.similarities(anchors, jnp.concatenate(gathered))
  own = collectives.axis_index(axis) * rows + jnp.arange(rows, dtype=jnp.int32)
  is_self = jnp.arange(similarity.shape[1])[None, :] == own[:, None]
  terms = jax.nn.logsumexp(jnp.where(is_self, -jnp.inf, similarity / alpha), axis=1)
  return 2.0 * alpha * jnp.mean(terms)
