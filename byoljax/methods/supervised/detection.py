"""Detection: which objects are where, by Faster R-CNN (Ren et al., arXiv 1506.01497).

The encoder starts from `setting.given['encoder']` where there is one. A first stage finds regions
that look like something, on the encoder's maps or a pyramid made of them; a second stage says of
each region what it is and where exactly. Both are trained together, on one view with its field
'boxes', whose rows follow the crop. What BYOL (arXiv 2006.07733, appendix D) and MoCo (arXiv
1911.05722, section 4.2) fine-tune on PASCAL VOC is the kind 'c4'; see `models.detectors`.

Frozen, everything that comes from the encoder runs in evaluation mode and keeps every bit; with
'c4' this includes the last stage, of which regions have a copy of their own.

Different from the authors' code: RoIAlign for RoIPool, as in all newer tables; losses per image
(`losses.detection`); square views of one size, crops of images that are filled up to squares or
stretched, where whole images have a short side of 480 to 800 pixels. Anchors that reach beyond an
image stay among the examples and may be drawn as background, as in torchvision. Crowds (field of
kinds, see `evals.detection`) are not trained on; what is difficult is.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import detection as losses
from byoljax.method import Aux, Batch, MakeEncoder, Method, Setting, default_groups, keep
from byoljax.methods import checks
from byoljax.models import faster_rcnn
from byoljax.models.faster_rcnn import Detector, Size, Stages, stages_of
from byoljax.models.net import Statistics
from byoljax.ops import boxes, matching
from byoljax.ops.proposals import DetectionOptions
from byoljax.suggest import check_name

PyTree = Any
FIELD, KINDS = 'boxes', 'kinds'
CROWD = 2  # As in `evals.detection`.


class _Objects(NamedTuple):
  """What is in the images of a batch, in pixels of the view."""

  boxes: jax.Array  # float32 [b, n, 4]
  classes: jax.Array  # int32 [b, n]
  there: jax.Array  # bool [b, n]


def detection(stages: Stages, setting: Setting, *, frozen: bool, batch_norm: str) -> Method:
  """The method over its two stages; `build` makes it, and says what the arguments are."""
  given = setting.given.get('encoder')
  train = batch_norm == 'batch' and not frozen
  detector, copied = stages.detector, stages.copied

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, Statistics]:
    params, bn = stages.whole.init(jax.random.fold_in(key, streams.ONLINE), checks.only_view(batch))
    if given is not None:
      params['encoder'], bn['encoder'] = jax.tree.map(
        jnp.array, (given.params['encoder'], given.bn['encoder'])
      )
    for tree in (params, bn):  # The last stage, for regions.
      own = {name: tree['encoder'][name] for name in copied}
      tree['box_head'] = dict(tree['box_head']) | jax.tree.map(jnp.array, own)
    return params, Statistics(bn)

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del step
    (view,) = batch['views']
    image = view.shape[1], view.shape[2]
    objects = _objects(batch, image)
    if frozen:
      params = _stopped(params, copied)
    keys, others = (
      collectives.example_keys(jax.random.fold_in(key, stream), len(view), setting.axis)
      for stream in (streams.ANCHORS, streams.REGIONS)
    )
    outputs, maps, bn = stages.first(params, state.bn, view, train=train)
    made = outputs['proposals']
    every, _ = stages.anchors(maps, image)
    of_first = functools.partial(_first_loss, jnp.asarray(every), detector.first)
    something, place = jax.vmap(of_first)(keys, made, objects)
    regions, there = stages.propose(made, maps, image, detector.training)
    draw = functools.partial(_regions, stages.classes, detector.second)
    regions, targets, labels, there, found = jax.vmap(draw)(others, regions, there, objects)
    logits, codes, bn = stages.second(params, bn, maps, regions, image, train=train)
    kind, exact = jax.vmap(losses.second_stage)(logits, codes, regions, targets, labels, there)
    parts = {
      'objectness_loss': something.mean(),
      'proposal_loss': place.mean(),
      'class_loss': kind.mean(),
      'box_loss': exact.mean(),
    }
    metrics = jax.lax.stop_gradient(parts | {'proposal_recall': found.mean()})
    total = sum(parts.values(), jnp.zeros((), jnp.float32))
    return total, Aux(Statistics(bn), metrics, outputs['embedding'])

  def embed(params: PyTree, state: Statistics, images: jax.Array) -> dict[str, jax.Array]:
    return stages.detect(params, state.bn, images)

  # The optimizer would move what is frozen, too: by decay, and by what it remembers.
  still = ('encoder', *(f'box_head/{name}' for name in copied)) if frozen else ()
  starts = dict.fromkeys(still, setting.length.total_steps)
  return Method(init, loss, keep, embed, default_groups, net=stages.whole, starts=starts)


def _objects(batch: Batch, image: Size) -> _Objects:
  """The objects that are trained on.

  Raises:
    ValueError: the batch has no boxes.
  """
  if FIELD not in batch:
    raise ValueError(f"detection needs the field '{FIELD}' beside the images.")
  (rows,) = batch[FIELD]
  kinds = rows[..., 4].astype(jnp.int32)
  counted = kinds >= 0
  if KINDS in batch:
    counted &= batch[KINDS] != CROWD
  return _Objects(rows[..., :4] * faster_rcnn.corners(image)[None, None], kinds, counted)


def _stopped(params: PyTree, copied: Sequence[str]) -> PyTree:
  """The parameters, where those that come from the encoder get no gradient."""
  head = params['box_head']
  still = jax.lax.stop_gradient(
    {'encoder': params['encoder'], 'own': {name: head[name] for name in copied}}
  )
  return params | {'encoder': still['encoder'], 'box_head': dict(head) | still['own']}


def _first_loss(
  every: jax.Array, count: int, key: jax.Array, made: jax.Array, objects: _Objects
) -> tuple[jax.Array, jax.Array]:
  """One image's losses of the first stage."""
  matches = matching.match(
    boxes.iou(every, objects.boxes), objects.there, low=0.3, high=0.7, best=True
  )
  index, there = matching.sample(key, matches.positive, matches.negative, count=count, share=0.5)
  targets = objects.boxes[matches.object[index]]
  chosen = made[index]
  return losses.first_stage(
    chosen[:, 0], chosen[:, 1:], every[index], targets, matches.positive[index], there
  )


def _regions(
  classes: int, count: int, key: jax.Array, regions: jax.Array, there: jax.Array, objects: _Objects
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
  """One image's regions for the second stage: proposals, and the objects themselves.

  Returns:
    (boxes [count, 4], their objects' boxes [count, 4], labels [count], which are there [count], the
    share of objects that a proposal overlaps by a half).
  """
  found = (boxes.iou(regions, objects.boxes) >= 0.5) & there[:, None]
  known = objects.there.sum()
  recall = jnp.sum(jnp.any(found, 0) & objects.there) / jnp.maximum(known, 1)
  every = jnp.concatenate([regions, objects.boxes])
  there = jnp.concatenate([there, objects.there])
  matches = matching.match(boxes.iou(every, objects.boxes), objects.there, low=0.5, high=0.5)
  positive = matches.positive & there
  index, drawn = matching.sample(key, positive, matches.negative & there, count=count, share=0.25)
  own = matches.object[index]
  labels = jnp.where(positive[index], objects.classes[own], classes)
  share = jnp.where(known > 0, recall, 1.0)
  return every[index], objects.boxes[own], labels.astype(jnp.int32), drawn, share


def detector_of(fields: Mapping[str, Any]) -> Detector:
  """A detector of the fields of a configuration.

  Raises:
    ValueError: an unknown one, or a value that is not allowed.
  """
  for name in fields:
    check_name('detector setting', name, Detector._fields)
  made = Detector(**fields)
  _check(made)
  return made._replace(found=DetectionOptions(*made.found))


def _check(detector: Detector) -> None:
  """Raises ValueError for a number that is not allowed, with its name."""
  least = 0 if detector.kind == 'c4' else 1  # 'c4' has no layers of these.
  leasts = {'channels': least, 'width': least, 'bins': 0, 'first': 1, 'second': 1}
  pair = 'two whole numbers from 1 on: how many of each map are looked at, how many stay'
  scores, counts = detector.found[:2], detector.found[2:]
  rules = [
    *((name, _whole((getattr(detector, name),), 1, least), f'a whole number from {least} on')
      for name, least in leasts.items()),
    *((name, _whole(getattr(detector, name), 2), pair) for name in ('training', 'testing')),
    ('anchor_scales', min(detector.anchor_scales, default=1) > 0, 'positive numbers, or ()'),
    ('anchor_ratios', min(detector.anchor_ratios, default=0) > 0, 'at least one positive number'),
    ('finest', detector.finest > 0, 'a positive number'),
    ('found', all(0 <= score <= 1 for score in scores) and _whole(counts, 2),
     'a score and an overlap from 0 to 1 and two whole numbers from 1 on: how many are looked at, '
     'how many stay'),
  ]  # fmt: skip
  for name, right, allowed in rules:
    if not right:
      value = getattr(detector, name)
      raise ValueError(f'the detector has {name}={value}, which must be {allowed}.')


def _whole(values: Sequence[Any], count: int, least: int = 1) -> bool:
  """Whether these are so many whole numbers, none below `least`."""
  return len(values) == count and all(isinstance(x, int) and x >= least for x in values)


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  classes: int = 0,
  frozen: bool = False,
  batch_norm: str = 'batch',
  **detector: Any,
) -> Method:
  """Builds detection from an encoder factory and its configuration.

  Args:
    make_encoder: the encoder that `setting.given['encoder']`, if any, belongs to.
    setting: the run.
    classes: of the boxes; 0: as many as the images' labels have.
    frozen: whether the encoder stays as it is.
    batch_norm: of an encoder that is trained: 'batch' normalizes with the batch's statistics,
      'frozen' with the running ones, which then stay.
    **detector: fields of `Detector`.

  Raises:
    ValueError: an unknown kind, map or `batch_norm`, a field of the detector that is not allowed,
      no classes, or an encoder that the kind cannot be put on.
  """
  checks.check_batch_norm(batch_norm)
  options = detector_of(detector)
  classes = classes or setting.num_classes
  if classes < 1:
    raise ValueError('detection needs boxes of at least one class.')
  stages = stages_of(
    make_encoder(setting.axis),
    options,
    classes,
    channels=len(setting.mean),
    axis=setting.axis,
    dtype=setting.dtype,
  )
  return detection(stages, setting, frozen=frozen, batch_norm=batch_norm)
