"""What methods ask of their arguments and batches: each raises ValueError with the fix."""

from collections.abc import Sequence
from typing import Any

import jax

from byoljax.devices import collectives
from byoljax.method import NETWORKS, Batch, Method, Setting
from byoljax.ops import trees
from byoljax.suggest import check_name
from byoljax.wording import counted

BATCH_NORMS = ('batch', 'frozen')


def check_sizes(projector: Sequence[int], predictor: Sequence[int] = ()) -> None:
  """Raises ValueError unless the sizes of a projector and of its predictor, if any, make sense."""
  sizes = (*projector, *predictor)
  if not projector or not all(isinstance(size, int) and size >= 1 for size in sizes):
    raise ValueError(
      f'projector={tuple(projector)} and predictor={tuple(predictor)}: give at least an output '
      f'size of the projector, and whole numbers of at least 1, such as (2048, 256).'
    )
  if predictor and predictor[-1] != projector[-1]:
    raise ValueError(
      f'the predictor puts out {predictor[-1]} values but the projector {projector[-1]}: '
      f'the last numbers of both must be equal.'
    )


def check_widths(**layers: Sequence[int]) -> None:
  """Raises ValueError unless the widths of hidden layers, by the field's name, make sense."""
  for name, widths in layers.items():
    if not all(isinstance(width, int) and width >= 1 for width in widths):
      raise ValueError(
        f'{name}={tuple(widths)}: every layer needs a width of at least 1, a whole number.'
      )


def check_batch_norm(batch_norm: str) -> None:
  """Raises ValueError unless it is one of `BATCH_NORMS`."""
  check_name('batch_norm', batch_norm, BATCH_NORMS)


def require_other_images(rows: int, axis: str | None) -> None:
  """Raises ValueError for a global batch of a single image where a loss compares images."""
  if rows * collectives.axis_size(axis) < 2:
    raise ValueError(
      'this loss compares the images of a batch, and a batch of 1 image has nothing to compare: '
      'use at least 2 images in a batch.'
    )


def check_groups(bn_groups: int, setting: Setting) -> None:
  """Raises ValueError unless the batch splits into groups of batch normalization, whole devices."""
  if bn_groups == 0:
    return
  batch, devices = setting.micro_batch_size, setting.num_devices
  if bn_groups < 0 or bn_groups % devices or batch % bn_groups or batch // bn_groups < 2:
    raise ValueError(
      f'bn_groups={bn_groups} must be a multiple of the {counted(devices, "device")} and split a '
      f'batch of {batch} into equal parts of at least 2; 0 shares statistics over the whole batch.'
    )


def only_view(batch: Batch) -> jax.Array:
  """The view that a task with a single one works on.

  Raises:
    ValueError: when traced: there are several.
  """
  if len(batch['views']) != 1:
    raise ValueError(
      f'this method takes one view of every image, but there are {len(batch["views"])}: '
      'configure view1 alone.'
    )
  return batch['views'][0]


def two_views(batch: Batch) -> tuple[jax.Array, jax.Array]:
  """The views of a loss that compares two.

  Raises:
    ValueError: when traced: there are more, or one.
  """
  if len(batch['views']) != 2:
    raise ValueError(
      f'this method compares two views of every image, but there are {len(batch["views"])}: '
      'configure view1 and view2, neither with a repeat.'
    )
  first, second = batch['views']
  return first, second


def several_views(batch: Batch) -> tuple[jax.Array, ...]:
  """The views of a loss that compares any number of them; the first two are large crops, if any.

  Raises:
    ValueError: when traced: there is one.
  """
  if len(batch['views']) < 2:
    raise ValueError(
      'this method compares the views of every image and needs at least 2, but there is 1: '
      'configure view2, too.'
    )
  return batch['views']


def check_networks(method: Method, params: Any, method_state: Any) -> None:
  """Checks that a method's network is where evaluations and checkpoints look for it.

  Args:
    method: see `method.Method`.
    params: as its `init` makes them.
    method_state: the same.

  Raises:
    ValueError: where nothing is.
  """
  if method.net is None:
    return
  role, state = method.net.parts[0][0], {'params': params, 'method_state': method_state}
  for path in NETWORKS['online']:
    if trees.at(state, (*path, role)) is None:
      raise ValueError(
        f"the method keeps nothing at {'.'.join(path)}['{role}'], where evaluations look for its "
        "network: parameters are a dict of Method.net's roles, and the method state has its "
        'running statistics as bn, as models.net.Statistics(bn) does.'
      )
