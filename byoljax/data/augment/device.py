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


def make_augment(
  specs: Sequence[views.ViewSpec],
  *,
  seed: int,
  mean: Sequence[float],
  std: Sequence[float],
) -> Callable[..., dict[str, Any]]:
  """Builds augment(batch, step=None) -> batch, pure and per device, for use inside the jitted step.

  `batch` holds 'index' int32 [b], the position of each example in its data set, 'epoch' int32 [b],
  and either 'image' uint8 [b, H, W, 3] or 'views', a tuple of uint8 [b, S, S, 3] that were cropped
  and mirrored by the host. The result has no 'image'; its 'views' are float32 [b, S, S, 3],
  augmented and normalized, one per spec; other entries pass through. The step is not looked at: the
  train step gives it to any augmentation.

  Args:
    specs: one per view, in the order of the views.
    seed: run seed in [0, 2^32).
    mean: three numbers, subtracted last from images in [0, 1].
    std: three positive numbers, divided by.

  Raises:
    ValueError: an argument is out of range, or (when traced) the views of a batch do not match.
  """
  specs = tuple(specs)
  if not specs:
    raise ValueError('specs is empty, but an augmentation needs at least one view.')
  _check_statistics(mean, std)

  def augment(batch: dict[str, Any], step: Any = None) -> dict[str, Any]:
    del step
    batch = dict(batch)
    image = batch.pop('image', None)
    if image is None:
      _check_views(batch, specs)
    out = []
    # The weights of the resampling and the blur must not be rounded to bfloat16 or TF32.
    with jax.default_matmul_precision('highest'):
      for number, spec in enumerate(specs):
        u = draws.uniforms(jnp, seed, batch['epoch'], batch['index'], number, views.NUM_DRAWS)
        if image is None:
          view = batch['views'][number]
        else:
          boxes = crop.crop_box(jnp, u, image.shape[1], image.shape[2], spec)
          view = crop.resample(jnp, image, boxes, crop.flips(u, spec), spec.size)
        out.append(photometric.normalize(branches.apply(view, u, spec), mean, std))
    batch['views'] = tuple(out)
    return batch

  return augment


def make_eval_transform(mean: Sequence[float], std: Sequence[float]) -> Callable[[Any], jax.Array]:
  """Builds transform(images) -> float32 [b, H, W, 3], scaled to [0, 1] and normalized.

  `images` is uint8 [b, H, W, 3] (or float in [0, 1]), already at the size that the encoder takes.

  Args:
    mean: three numbers.
    std: three positive numbers.

  Raises:
    ValueError: mean or std are not three numbers, or std is not positive.
  """
  _check_statistics(mean, std)

  def transform(images):
    return photometric.normalize(photometric.to_unit(images), mean, std)

  return transform


def _check_statistics(mean, std):
  if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
    raise ValueError(
      f'mean is {tuple(mean)} and std is {tuple(std)}, but both need three numbers and std positive'
      ' ones.'
    )


def _check_views(batch, specs):
  shapes = [view.shape[1:] for view in batch.get('views', ())]
  expected = [(spec.size, spec.size, 3) for spec in specs]
  if shapes != expected:
    raise ValueError(
      f"the batch's views have shapes {shapes}, but the view settings ask for {expected}; crop the"
      ' views on the host to the configured sizes, or pass whole images as batch["image"].'
    )
