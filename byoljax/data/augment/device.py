"""The augmentation as part of the jitted step, and the evaluation transform.

A batch arrives with whole images (arrays: crop, mirror and photometric operations happen here) or
with views that the host has cropped and mirrored. Either way every random number is
`draws.uniforms(seed, epoch, index, view)`, so which side does the work, the batch an example
falls into and the number of devices leave the pictures as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byoljax.data.augment import branches, crop, draws, photometric, views

_PLACES = ('accelerator', 'host')


def make_augment(
  specs: Sequence[views.ViewSpec],
  *,
  seed: int,
  steps_per_epoch: int,
  mean: Sequence[float],
  std: Sequence[float],
  photometric_on: str = 'accelerator',
) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
  """Builds augment(batch, step) -> batch, pure and per device, for use inside the jitted step.

  `batch` holds 'index' int32 [b], the position of each example in its data set, and either 'image'
  uint8 [b, H, W, 3] or 'views', a tuple of uint8 [b, S, S, 3] that were cropped and mirrored by the
  host with the draws of epoch step // steps_per_epoch. The result has no 'image'; its 'views' are
  float32 [b, S, S, 3], augmented and normalized, one per spec; other entries pass through.

  Args:
    specs: one per view, in the order of the views.
    seed: run seed in [0, 2^32).
    steps_per_epoch: steps in one pass over the data, at least 1.
    mean: three numbers, subtracted last from images in [0, 1].
    std: three positive numbers, divided by.
    photometric_on: 'accelerator', or 'host' when 'views' arrive with the photometric operations
      already applied. Batches of 'image' are always augmented here.

  Raises:
    ValueError: an argument is out of range, or (when traced) the views of a batch do not match.
  """
  specs = tuple(specs)
  if not specs:
    raise ValueError('specs is empty, but an augmentation needs at least one view.')
  if steps_per_epoch < 1:
    raise ValueError(f'steps_per_epoch is {steps_per_epoch}, but it must be at least 1.')
  if photometric_on not in _PLACES:
    raise ValueError(f'photometric_on is {photometric_on!r}, but it must be one of {_PLACES}.')
  _check_statistics(mean, std)

  def finish(images, u, spec, apply):
    images = branches.apply(images, u, spec) if apply else photometric.to_unit(jnp, images)
    return photometric.normalize(jnp, images, mean, std)

  def augment(batch, step):
    batch = dict(batch)
    image = batch.pop('image', None)
    if image is None:
      _check_views(batch, specs)
    epoch = step // steps_per_epoch
    out = []
    # The weights of the resampling and the blur must not be rounded to bfloat16 or TF32.
    with jax.default_matmul_precision('highest'):
      for number, spec in enumerate(specs):
        u = draws.uniforms(jnp, seed, epoch, batch['index'], number, views.NUM_DRAWS)
        if image is None:
          view = finish(batch['views'][number], u, spec, photometric_on == 'accelerator')
        else:
          boxes = crop.crop_box(jnp, u, image.shape[1], image.shape[2], spec)
          view = crop.resample(jnp, image, boxes, crop.flips(u, spec), spec.size)
          view = finish(view, u, spec, True)
        out.append(view)
    batch['views'] = tuple(out)
    return batch

  return augment


def make_eval_transform(mean: Sequence[float], std: Sequence[float]) -> Callable[[Any], jax.Array]:
  """Builds transform(images) -> float32 [b, H, W, C], scaled to [0, 1] and normalized.

  `images` is uint8 [b, H, W, C] (or float in [0, 1]), already at the size that the encoder takes.

  Args:
    mean: C numbers.
    std: C positive numbers.

  Raises:
    ValueError: mean and std are not equally many numbers, or std is not positive.
  """
  _check_statistics(mean, std)

  def transform(images):
    return photometric.normalize(jnp, photometric.to_unit(jnp, images), mean, std)

  return transform


def _check_statistics(mean, std):
  if not mean or len(mean) != len(std) or min(std) <= 0:
    raise ValueError(
      f'mean is {tuple(mean)} and std is {tuple(std)}, but both need a number for every channel '
      'and std positive ones.'
    )


def _check_views(batch, specs):
  shapes = [view.shape[1:] for view in batch.get('views', ())]
  expected = [(spec.size, spec.size, 3) for spec in specs]
  if shapes != expected:
    raise ValueError(
      f"the batch's views have shapes {shapes}, but the view settings ask for {expected}; crop the"
      ' views on the host to the configured sizes, or pass whole images as batch["image"].'
    )
