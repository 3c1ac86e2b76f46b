"""The augmentation as part of the jitted step, and the evaluation transform.

A batch arrives with whole images (arrays: crop, mirror and photometric operations happen here) or
with views that the host has cropped and mirrored. Either way every random number is
`draws.uniforms(seed, epoch, index, view)`, so which side does the work, the batch an example
falls into and the number of devices leave the pictures as they are.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from byoljax.data.augment import (
  branches,
  crop,
  drawn,
  draws,
  own_view,
  photometric,
  randaugment,
  reorient,
  resize,
  views,
)
from byoljax.data.fields import Field


def make_augment(
  specs: Sequence[views.ViewSpec],
  *,
  seed: int,
  mean: Sequence[float],
  std: Sequence[float],
  fields: Sequence[Field] = (),
) -> Callable[..., dict[str, Any]]:
  """Builds augment(batch, step=None) -> batch, pure and per device, for use inside the jitted step.

  `batch` is one of `pipeline.train_batches`. In the result 'views' are float32 [b, S, S, C],
  augmented and normalized, one per spec, and every other field with a place in the image is a
  tuple with one entry per view, cropped and mirrored as that view is; 'drawn' is a tuple with the
  parameters of every view's augmentation, see `drawn`; 'index', 'epoch', 'label' and fields of kind
  'label' pass through. The step is not looked at: the train step gives it to any augmentation.

  Args:
    specs: one per view, in the order of the views.
    seed: run seed in [0, 2^32).
    mean: a number per channel, or one for all, subtracted last from images in [0, 1].
    std: as many positive numbers, divided by.
    fields: the further fields of the batches (`Source.field`). Photometric operations and
      normalization are for what the views show, not for these.

  Raises:
    ValueError: an argument is out of range, or (when traced) does not fit the batch.
  """
  specs = tuple(specs)
  views.check(specs)
  _check_statistics(mean, std)
  placed = [field.name for field in fields if field.kind != 'label']
  if placed and any(spec.reorients for spec in specs):
    raise ValueError(
      f'vflip_prob, turn_prob, rotate_degrees, shift, elastic and randaugment_ops must be 0 where '
      f'fields follow the views ({", ".join(placed)}): they would not be turned or moved.'
    )

  functions = [own_view.find(spec.own) for spec in specs]

  def augment(batch: dict[str, Any], step: Any = None) -> dict[str, Any]:
    del step
    # The weights of the resampling and the blur must not be rounded to bfloat16 or TF32.
    with jax.default_matmul_precision('highest'):
      numbers = [
        draws.uniforms(jnp, seed, batch['epoch'], batch['index'], number, spec.num_draws)
        for number, spec in enumerate(specs)
      ]
      if 'views' in batch:
        batch = _unpacked(batch, specs, fields)
      else:
        batch = _cut(batch, specs, fields, numbers)
      batch['drawn'] = tuple(map(drawn.parameters, batch.pop('window'), numbers, specs))
      batch['views'] = tuple(
        one(number, view, numbers, batch) for number, view in enumerate(batch['views'])
      )
    return batch

  def one(
    number: int, view: jax.Array, numbers: Sequence[jax.Array], batch: dict[str, Any]
  ) -> jax.Array:
    spec, u = specs[number], numbers[number]
    other = views.geometry_of(specs, number)
    view = branches.apply(view, u, spec)
    view = own_view.apply(view, functions[number], spec.own, seed, batch, number)
    # The geometry of the other, at the view's own size.
    like = dataclasses.replace(specs[other], size=spec.size)
    view = reorient.orient(view, numbers[other], like)
    view = randaugment.apply(view, u, spec, mean)
    return reorient.cut_out(photometric.normalize(view, mean, std), u, spec)

  return augment


def _cut(
  batch: dict[str, Any],
  specs: Sequence[views.ViewSpec],
  fields: Sequence[Field],
  numbers: Sequence[jax.Array],
) -> dict[str, Any]:
  """Cuts the views and the further fields out of a batch of whole arrays."""
  placed = [field for field in fields if field.kind != 'label']
  gone = {'image', *(spec.field for spec in specs), *(field.name for field in placed)}
  made = {name: value for name, value in batch.items() if name not in gone}
  height, width = batch['image'].shape[1:3]
  windows: list[tuple[Any, Any, int]] = []
  kernels = [spec.kernel for spec in specs]
  for number, spec in enumerate(specs):
    other = views.geometry_of(specs, number)
    u, like = numbers[other], specs[other]
    windows.append((crop.crop_box(jnp, u, height, width, like), crop.flips(u, like), spec.size))
  made['window'] = tuple(
    drawn.window(jnp, boxes, flip, height, width) for boxes, flip, _ in windows
  )
  made['views'] = tuple(
    resize.resample(jnp, batch[spec.field], boxes, flip, size, spec.kernel)
    for spec, (boxes, flip, size) in zip(specs, windows, strict=True)
  )
  for field in placed:
    made[field.name] = tuple(
      crop.crop_field(jnp, field, batch[field.name], *window, height, width, kernel)
      for window, kernel in zip(windows, kernels, strict=True)
    )
  return made


def _unpacked(
  batch: dict[str, Any], specs: Sequence[views.ViewSpec], fields: Sequence[Field]
) -> dict[str, Any]:
  """A batch that the host has cropped, with the images among its further fields in [0, 1]."""
  shapes = [view.shape[1:3] for view in batch['views']]
  expected = [(spec.size, spec.size) for spec in specs]
  if shapes != expected:
    raise ValueError(
      f"the batch's views have sizes {shapes}, but the view settings ask for {expected}; crop the"
      ' views on the host to the configured sizes, or pass whole images as batch["image"].'
    )
  images = [field.name for field in fields if field.kind == 'image']
  return {**batch, **{name: tuple(map(photometric.to_unit, batch[name])) for name in images}}


def make_eval_transform(mean: Sequence[float], std: Sequence[float]) -> Callable[[Any], jax.Array]:
  """Builds transform(images) -> float32 [b, H, W, C], scaled to [0, 1] and normalized.

  `images` is uint8 [b, H, W, C] (or float in [0, 1]), already at the size that the encoder takes.

  Args:
    mean: a number per channel, or one for all.
    std: as many positive numbers.

  Raises:
    ValueError: std is not positive or, when traced, the numbers do not fit the channels.
  """
  _check_statistics(mean, std)

  def transform(images):
    return photometric.normalize(photometric.to_unit(images), mean, std)

  return transform


def _check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
  if not mean or not std or min(std) <= 0:
    raise ValueError(
      f'mean is {tuple(mean)} and std is {tuple(std)}, but both need a number for each channel, or '
      'one for all, and those of std must be positive.'
    )
