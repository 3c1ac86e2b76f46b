"""Elastic distortions: pixels move by smooth random fields (Simard, Steinkraus and Platt, 2003).

As there (section 2 of "Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis"), a field for each axis is uniform noise that a Gaussian has smoothed, times an amplitude.
Different from it: the noise lies on a grid of half the Gaussian's width that reaches beyond the
view, so that a field has the same strength everywhere and is the same at any size; amplitude and
width are shares of the view's side, and the amplitude is the standard deviation of the
displacement, where theirs is a factor whose effect depends on the width.
"""

import jax
import jax.numpy as jnp
from jax.scipy import ndimage
import numpy as np

from byoljax.data.augment import views


def displacements(u: jax.Array, spec: views.ViewSpec) -> jax.Array:
  """How far each pixel's source is away: float32 [b, 2, S, S], down and to the right, in pixels.

  Of mean 0 and standard deviation `elastic` times S, at every pixel; places d apart correlate by
  exp(-d^2 / (2 s)^2) with s = `elastic_smooth` times S.

  Args:
    u: float32 [b, spec.num_draws] in [0, 1).
    spec: `elastic` and `elastic_smooth`.
  """
  nodes = spec.elastic_nodes
  noise = u[:, views.ELASTIC : views.ELASTIC + 2 * nodes**2]
  noise = (2.0 * noise - 1.0) * np.float32(3**0.5)  # of variance 1
  smooth = _smoothing(spec.size, spec.elastic_smooth, nodes)
  field = jnp.einsum(
    'ip,jq,bapq->baij', smooth, smooth, noise.reshape(-1, 2, nodes, nodes), precision='highest'
  )
  return field * np.float32(spec.elastic * spec.size)


def distort(images: jax.Array, u: jax.Array, spec: views.ViewSpec) -> jax.Array:
  """Distorts each image by itself, interpolated bilinearly, mirrored beyond the border.

  Args:
    images: float32 [b, S, S, C].
    u: float32 [b, spec.num_draws] in [0, 1).
    spec: `elastic` and `elastic_smooth`.

  Returns:
    [b, S, S, C], the same where `elastic` is 0.
  """
  if spec.elastic <= 0:
    return images
  size = images.shape[1]
  source = displacements(u, spec) + jnp.indices((size, size), jnp.float32)[None]

  def one(image: jax.Array, place: jax.Array) -> jax.Array:
    def take(channel: jax.Array) -> jax.Array:
      return ndimage.map_coordinates(channel, list(place), order=1, mode='reflect')

    return jax.vmap(take, in_axes=-1, out_axes=-1)(image)

  return jax.vmap(one)(images, source)


def _smoothing(size: int, width: float, nodes: int) -> np.ndarray:
  """Weights of the nodes at each pixel, float32 [size, nodes]; their squares add up to 1."""
  pixels = (np.arange(size) + 0.5) / size
  grid = (np.arange(nodes) - (nodes - 1) / 2) * width / 2 + 0.5
  weights = np.exp(-((pixels[:, None] - grid[None]) ** 2) / (2 * width**2))
  return (weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32)
