"""RotNet: by how much was the image turned? (Gidaris et al. 2018, arXiv 1803.07728).

Every image is seen in all its turns in one batch, which the paper found to be better than one
turn of each; quarter turns move pixels and leave no trace of interpolation. There is nothing
random here: crops and flips are the view's, before the turn.

Other sets of angles are the paper's ablation (section 3.2: eight are worse than four, two are much
worse). With multiples of 45 degrees that are no quarter turns, everything outside of the inscribed
disc is the mean color in all turns, since corners would tell the angle; the slight blur of
interpolation still tells odd multiples from even ones. The paper does not say how it turned
images by 45 degrees.

Different from the authors' code: the classifier is on the encoder's pooled embedding, with hidden
layers if asked for; their AlexNet's fully connected layers read the last map as it is.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp

from byoljax.data.augment import turns
from byoljax.method import Batch, MakeEncoder, Method, Setting, Transforms
from byoljax.methods.checks import only_view
from byoljax.methods.pretext import classification


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  angles: Sequence[int] = (0, 90, 180, 270),
  hidden: Sequence[int] = (),
) -> Method:
  """Builds RotNet from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    angles: in degrees, counterclockwise, multiples of 45; label i is the i-th of them.
    hidden: widths of hidden layers under the classifier; () is a linear one.

  Raises:
    ValueError: fewer than two angles, an angle twice or no multiple of 45.
  """
  angles = tuple(angles)
  if len({angle % 360 for angle in angles}) != len(angles) or len(angles) < 2:
    raise ValueError(f'angles={angles} must be at least two different ones.')
  if any(angle % 45 for angle in angles):
    raise ValueError(f'angles={angles} must be multiples of 45 degrees.')
  interpolated = any(angle % 90 for angle in angles)

  def turned(images: jax.Array, angle: int) -> jax.Array:
    seen = turns.turn(images, angle)
    return seen * turns.inscribed_disc(images.shape[1]) if interpolated else seen

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del key, step
    view = only_view(batch)
    seen = jnp.concatenate([turned(view, angle) for angle in angles])
    labels = jnp.repeat(jnp.arange(len(angles), dtype=jnp.int32), len(view))
    return batch | {'views': (seen,), 'pretext_label': labels}

  net = classification.image_classifier(make_encoder, setting, len(angles), hidden)
  ways = [functools.partial(turned, angle=angle) for angle in angles]
  every = Transforms(len(angles), lambda images, way: jax.lax.switch(way, ways, images))
  return classification.from_labels(net, transform)._replace(transforms=every)
