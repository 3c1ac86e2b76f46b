"""GEOM: which of 72 geometric transforms was it? (Golan and El-Yaniv 2018, arXiv 1805.10917).

Mirrored or not, moved by a quarter or not, along each axis either way, and turned by quarters:
RotNet with 72 classes. It was made to find anomalies. A network that is trained on one class solves
the task on images of that class better than on others, so the probability that it gives to the
right transform, averaged over all of them, is a score of normality: `byoljax anomaly`.

Different from the authors' code: they shuffle all 72 transforms of all images into batches of 128;
here a batch has `per_image` different transforms of each of its images, drawn anew in every step.
With one of each, the batches are distributed as theirs, but for which transforms an image has
had after so many steps. Their network is fed with images in [-1, 1], and has an L2 penalty of
0.00025 on kernels, on the scales and shifts of batch normalization and on the classifier's bias,
which is part of Adam's gradient; the recipe has none.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.data.augment import geometric
from byoljax.devices import collectives
from byoljax.method import Batch, MakeEncoder, Method, Setting, Transforms
from byoljax.methods.checks import only_view
from byoljax.methods.pretext import classification


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  per_image: int = 1,
  shift: float = 0.25,
  hidden: Sequence[int] = (),
) -> Method:
  """Builds GEOM from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    per_image: how many of the 72 transforms of each image are in a batch, all different.
    shift: in shares of the image's side, in (0, 1): 8 of 32 pixels.
    hidden: widths of hidden layers under the classifier; () is a linear one.

  Raises:
    ValueError: more transforms than there are, or a shift that is out of range.
  """
  if not 1 <= per_image <= geometric.COUNT:
    raise ValueError(f'per_image={per_image} must be in [1, {geometric.COUNT}].')
  if not 0 < shift < 1:
    raise ValueError(f'shift={shift} must be a share of the image in (0, 1), such as 0.25.')

  def apply(images: jax.Array, which: jax.Array) -> jax.Array:
    size = images.shape[1]
    maps = geometric.index_maps(size, max(1, round(shift * size)))
    return geometric.apply(images, maps, which)

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    view = only_view(batch)
    keys = collectives.example_keys(
      jax.random.fold_in(key, streams.GEOMETRIC), len(view), setting.axis
    )
    draw = jax.vmap(lambda own: jax.random.permutation(own, geometric.COUNT)[:per_image])
    labels = draw(keys).T.reshape(-1).astype(jnp.int32)
    seen = apply(jnp.tile(view, (per_image, 1, 1, 1)), labels)
    return batch | {'views': (seen,), 'pretext_label': labels}

  net = classification.image_classifier(make_encoder, setting, geometric.COUNT, hidden)
  method = classification.from_labels(net, transform, parts=True)
  return method._replace(transforms=Transforms(geometric.COUNT, apply))
