"""Exemplar: which image is this a piece of? (Dosovitskiy et al. 2014, arXiv 1406.6909).

A patch of every image, changed at random in place, size, angle and color
(`byoljax.data.augment.exemplars`), is a surrogate class. In the first paper's form, `softmax`, a
classifier has an output for each: label = index of the image. In the form that scales (Doersch and
Zisserman 2017, arXiv 1708.07860; Kolesnikov et al. 2019, arXiv 1901.09005), `triplet`, samples of
one image shall be nearer to each other than to those of other images. There the samples are random
crops of the whole image, gray for the most part, and standardized: `patches='views'` takes the
configured views for samples.

What repeats in several images (a class of objects, or the same image twice) is told apart
nevertheless: those are false negatives.

Different from the papers: one patch of every image, where the first takes patches of some thousand
images; to have fewer classes, train on fewer images. The patch is the same in every epoch if the
view is: a recipe with patches crops and mirrors nothing. A public implementation of the triplet
form normalizes over the batch; here every vector is divided by its own length.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.data.augment import chromatic, exemplars, tiles
from byoljax.devices import collectives
from byoljax.losses import triplet as triplet_loss
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  evaluation_outputs,
  keep,
)
from byoljax.methods import notes
from byoljax.methods.checks import check_sizes, only_view
from byoljax.methods.plain import plain_init
from byoljax.methods.pretext import classification
from byoljax.models import heads
from byoljax.models.net import Net, Statistics
from byoljax.ops import sphere
from byoljax.suggest import check_name, from_fields

PyTree = Any

FORMS = ('softmax', 'triplet')
PATCHES = ('seeds', 'views')
Transform = Callable[[Batch, jax.Array, jax.Array], Batch]


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  form: str = 'softmax',
  patches: str = 'seeds',
  samples: int = 8,
  changes: Mapping[str, Any] | None = None,
  patch_seed: int = 0,
  gray_prob: float = 0.0,
  standardize: str = 'none',
  hidden: Sequence[int] = (),
  projector: Sequence[int] = (1000,),
  margin: float = 0.5,
  mode: str = 'semi_hard',
) -> Method:
  """Builds the exemplar task from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run; with `softmax` there are as many classes as images.
    form: 'softmax' or 'triplet'.
    patches: samples are changed 'seeds', patches of the only view, or the configured 'views'.
    samples: of every image in a step; with 'views' there are as many as those.
    changes: fields of `data.augment.exemplars.ExemplarSpec`, for 'seeds'.
    patch_seed: decides where patches are; not the run's seed, so that runs share the task.
    gray_prob: share of the samples that lose their color; of RGB alone.
    standardize: of every sample; one of `data.augment.tiles.STANDARDIZE`.
    hidden: widths of hidden layers under the classifier, for 'softmax'.
    projector: sizes of the layers from the embedding to the projection, for 'triplet'.
    margin: in squared distance of unit vectors, 0 to 4, for 'triplet'.
    mode: one of `losses.triplet.MODES`, for 'triplet'.

  Raises:
    ValueError: an unknown name, a value out of range, or a single image.
  """
  check_name('form of exemplar', form, FORMS)
  check_name('patches', patches, PATCHES)
  check_name('standardization', standardize, tiles.STANDARDIZE)
  check_name('triplet mode', mode, triplet_loss.MODES)
  check_sizes(projector)
  if samples < (2 if form == 'triplet' else 1):
    raise ValueError(f'samples={samples}: triplets need at least 2, a softmax 1.')
  if not 0.0 <= margin <= 4.0:
    raise ValueError(f'margin={margin} must lie in [0, 4], squared distances of unit vectors.')
  if not 0.0 <= gray_prob <= 1.0:
    raise ValueError(f'gray_prob={gray_prob} must lie in [0, 1].')
  if gray_prob and len(setting.mean) != 3:
    raise ValueError(
      f'gray_prob={gray_prob} is for RGB, but the number of channels of these images is '
      f'{len(setting.mean)}: set it to 0.0.'
    )
  if form == 'softmax' and setting.num_examples < 2:
    raise ValueError(f'exemplar tells images apart: at least 2, got {setting.num_examples}.')
  spec = from_fields(exemplars.ExemplarSpec, 'field of exemplars', changes or {})
  transform = _make_transform(
    setting, spec if patches == 'seeds' else None, samples, patch_seed, gray_prob, standardize
  )
  if form == 'softmax':
    net = classification.image_classifier(make_encoder, setting, setting.num_examples, hidden)
    return classification.from_labels(net, transform)
  head = heads.MLPHead(
    features=tuple(projector), bn_axis=setting.axis, dtype=jnp.dtype(setting.dtype)
  )
  net = heads.with_projector(make_encoder(setting.axis), head)
  method = _triplets(net, transform, margin=margin, mode=mode, axis=setting.axis)
  return method._replace(notes=notes.of_accumulation(setting))


def _make_transform(
  setting: Setting,
  spec: exemplars.ExemplarSpec | None,
  samples: int,
  patch_seed: int,
  gray_prob: float,
  standardize: str,
) -> Transform:
  """(batch, key, step) -> all first samples, then all second ones and so on; labels are indices."""
  mean, std = (np.asarray(x, np.float32).reshape(1, 1, 1, -1) for x in (setting.mean, setting.std))

  def drawn(batch: Batch, key: jax.Array, positions: jax.Array) -> jax.Array:
    if spec is None:
      if len(batch['views']) < 2:
        raise ValueError("patches='views' needs 2 or more of every image: --config.views.view1...")
      if len({view.shape for view in batch['views']}) > 1:
        raise ValueError("patches='views' needs views of one size.")
      return jnp.stack([view * std + mean for view in batch['views']])
    images = jnp.clip(only_view(batch) * std + mean, 0.0, 1.0)
    corners = exemplars.seed_corners(images, batch['index'], spec.patch, patch_seed)
    return exemplars.make_exemplars(images, key, positions, corners, spec, samples)

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    positions = collectives.positions(len(batch['index']), setting.axis)
    made = drawn(batch, key, positions)
    count = len(made)
    if gray_prob:
      own = jax.random.fold_in(key, streams.GRAY_PATCHES)
      u = jax.vmap(lambda p: jax.random.uniform(jax.random.fold_in(own, p), (count,)), out_axes=1)
      is_gray = u(positions)[..., None, None, None] < gray_prob
      made = jnp.where(is_gray, chromatic.gray(made), made)
    if standardize == 'none':
      made = (made - mean[None]) / std[None]
    else:
      made = tiles.standardize(made, per_channel=standardize == 'channel')
    seen = made.reshape(-1, *made.shape[2:])
    return batch | {'views': (seen,), 'pretext_label': jnp.tile(batch['index'], count)}

  return transform


def _triplets(
  net: Net, transform: Transform, *, margin: float, mode: str, axis: str | None
) -> Method:
  """The scalable form; 'pretext_accuracy' is how often a sample's nearest is of its own image."""

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    outputs, bn = net.apply(params, state.bn, batch['views'][0], train=True)
    rows = len(batch['index'])
    z = classification.per_image(outputs['projection'], rows)
    z, groups = triplet_loss.gather_groups(jnp.swapaxes(z, 0, 1), batch['index'], axis)
    value, active = triplet_loss.triplet(z, groups, margin=margin, mode=mode)
    metrics = {'active_triplets': active, 'pretext_accuracy': retrieval(z, groups)}
    embedding = classification.per_image(outputs['embedding'], rows)[0]
    return value, Aux(Statistics(bn), metrics, embedding)

  embed = evaluation_outputs(net, 'embedding', 'projection')
  return Method(plain_init(net), loss, keep, embed, default_groups, net=net, transform=transform)


def retrieval(z: jax.Array, groups: jax.Array) -> jax.Array:
  """How often the nearest other row, by cosine, is of the same group: float32 in [0, 1].

  With m rows in each of n groups, chance is (m - 1) / (m n - 1). No gradient.

  Args:
    z: [n, D], any norm.
    groups: int [n].
  """
  z = sphere.normalize(jax.lax.stop_gradient(z))
  cosines = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, sphere.similarities(z, z))
  return jnp.mean((groups[jnp.argmax(cosines, axis=1)] == groups).astype(jnp.float32))
