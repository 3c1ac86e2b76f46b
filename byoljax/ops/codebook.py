"""Vector quantization: the nearest code, a codebook that follows by moving averages, and restarts.

    q = argmin_k |z - e_k|^2                               (van den Oord et al., arXiv 1711.00937)
    N_k <- g N_k + (1 - g) n_k,   m_k <- g m_k + (1 - g) sum of the z that k is nearest to
    e_k = m_k / N'_k,   N'_k = N (N_k + eps) / (N + K eps),  N = sum_k N_k     (appendix A.1)

N' is Laplace's smoothing, as in Sonnet's code: a code that nothing is near to never divides by 0.

A code that is dead, used less than a given share of the mean use, is put where an output of the
encoder is, as Jukebox does it (Dhariwal et al., arXiv 2005.00341, section 3.1), with the mean use
as its count. Everything is float32, with batches counted over all devices, so that codebooks are
equal on all of them.
"""

import jax
import jax.numpy as jnp

from byoljax.devices import collectives

EPSILON = 1e-5


def nearest(z: jax.Array, codes: jax.Array) -> jax.Array:
  """The nearest code of each vector, int32 [...]; of several equally near ones the first.

  Args:
    z: [..., D].
    codes: [K, D].

  Raises:
    ValueError: vectors of another size than the codes'.

  Examples:
    >>> print(nearest(jnp.array([[0.9, 0.0], [0.2, 0.4]]), jnp.array([[1.0, 0.0], [0.0, 0.0]])))
    [0 1]
  """
  if codes.ndim != 2 or z.shape[-1] != codes.shape[1]:
    raise ValueError(
      f'vectors [..., D] and a codebook [K, D] must have one D, got {z.shape} and {codes.shape}.'
    )
  z, codes = z.astype(jnp.float32), codes.astype(jnp.float32)
  flat = z.reshape(-1, z.shape[-1])
  # |z|^2 is the same for all codes.
  squares = jnp.sum(codes * codes, axis=1)[None]
  distance = squares - 2.0 * jnp.matmul(flat, codes.T, precision='highest')
  return jnp.argmin(distance, axis=-1).astype(jnp.int32).reshape(z.shape[:-1])


def straight_through(z: jax.Array, e: jax.Array) -> jax.Array:
  """e, whose gradient goes to z unchanged and not to e: z + sg(e - z).

  Args:
    z: what was quantized, [..., D].
    e: its codes, of the same shape.

  Examples:
    >>> z, e = jnp.array([0.7]), jnp.array([1.0])
    >>> print(straight_through(z, e), jax.grad(lambda z: straight_through(z, e)[0] ** 2)(z))
    [1.] [2.]
  """
  return z + jax.lax.stop_gradient(e - z)


def use(
  z: jax.Array, chosen: jax.Array, count: int, axis: str | None
) -> tuple[jax.Array, jax.Array]:
  """How often each code was chosen, float32 [K], and the sum of what it was chosen for, [K, D].

  Sums over all devices, as products with one-hot vectors: adding up by index would depend on the
  order of the additions on a GPU.

  Args:
    z: [..., D], of this device.
    chosen: int32 [...].
    count: K.
    axis: the mapped axis, or None.
  """
  hot = jax.nn.one_hot(chosen.reshape(-1), count, dtype=jnp.float32)
  flat = z.astype(jnp.float32).reshape(-1, z.shape[-1])
  sums = jnp.matmul(hot.T, flat, precision='highest')
  return collectives.psum((hot.sum(0), sums), axis)


def means(counts: jax.Array, sums: jax.Array, epsilon: float = EPSILON) -> jax.Array:
  """The codes [K, D] of moving averages: m_k / N'_k, see the module.

  Args:
    counts: N_k, float32 [K].
    sums: m_k, float32 [K, D].
    epsilon: of Laplace's smoothing.

  Examples:
    >>> print(means(jnp.array([2.0, 0.0]), jnp.array([[4.0], [0.0]]), epsilon=0.0)[0])
    [2.]
  """
  total = counts.sum()
  smoothed = (counts + epsilon) / (total + counts.size * epsilon) * total
  return sums / smoothed[:, None]


def dead(counts: jax.Array, below: float) -> jax.Array:
  """Which codes are used less than `below` times the mean use: bool [K]; none where it is 0."""
  return counts < below * counts.mean()


def restart(counts: jax.Array, codes: jax.Array, rows: jax.Array, below: float) -> tuple:
  """Counts [K] and codes [K, D] after dead codes were put on rows.

  Args:
    counts: moving averages of how often each code is chosen.
    codes: [K, D].
    rows: [K, D], one for each code, whether it is dead or not: see `drawn_rows`.
    below: share of the mean use; 0 restarts none.

  Examples:
    >>> counts, codes = restart(jnp.array([3.0, 0.0]), jnp.zeros((2, 1)), jnp.ones((2, 1)), 0.1)
    >>> print(counts, codes[:, 0])
    [3.  1.5] [0. 1.]
  """
  lost = dead(counts, below)
  return jnp.where(lost, counts.mean(), counts), jnp.where(lost[:, None], rows, codes)


def drawn_rows(key: jax.Array, rows: jax.Array, count: int, axis: str | None) -> jax.Array:
  """`count` rows drawn from those of all devices, with repetition: float32 [count, D].

  A function of the key and of the global batch, whatever the number of devices.

  Args:
    key: the same on all devices.
    rows: [n, D], of this device.
    count: how many.
    axis: the mapped axis, or None.
  """
  total = len(rows) * collectives.axis_size(axis)
  place = jax.random.randint(key, (count,), 0, total)
  own = place - collectives.axis_index(axis) * len(rows)
  here = (own >= 0) & (own < len(rows))
  taken = rows.astype(jnp.float32)[jnp.clip(own, 0, len(rows) - 1)]
  return collectives.psum(jnp.where(here[:, None], taken, 0.0), axis)


def perplexity(counts: jax.Array) -> jax.Array:
  """exp of the entropy of the codes' use, float32 scalar in [1, K]; K where all are used alike.

  Examples:
    >>> print(f'{float(perplexity(jnp.array([5.0, 5.0, 0.0]))):.3f}')
    2.000
  """
  share = counts / jnp.maximum(counts.sum(), 1.0)
  return jnp.exp(jnp.sum(jax.scipy.special.entr(share)))
