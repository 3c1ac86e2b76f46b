"""Semantic segmentation: which class does every pixel belong to?

A head on the maps of an encoder, frozen or trained along, by the cross-entropy of every labeled
pixel: the linear probe of maps, and the fully convolutional network that BYOL (arXiv 2006.07733)
and MoCo (arXiv 1911.05722) fine-tune on VOC, after Long et al. (arXiv 1411.4038).

Different from the papers: crops do not leave the image, and nothing is filled up in training
(`data.augment.views`, `zoom`); images with a single view.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byoljax.losses import dense as losses
from byoljax.method import Batch, MakeEncoder, Method, Setting
from byoljax.methods.supervised import dense
from byoljax.methods.supervised.dense import HeadOptions

PyTree = Any


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  classes: int,
  mask: str = 'mask',
  frozen: bool = False,
  batch_norm: str = 'batch',
  head: str = 'linear',
  taps: Sequence[str] = (),
  width: int = 256,
) -> Method:
  """Builds segmentation on an encoder.

  Args:
    make_encoder: the encoder that `setting.given['encoder']`, if any, belongs to.
    setting: the run.
    classes: K, numbered from 0 in the masks; any other number, such as 255, is no label.
    mask: the field of the data, whole numbers.
    frozen: whether the encoder stays as it is.
    batch_norm: see `dense.dense_method`.
    head: see `models.dense_heads`, as for the two below.
    taps: see `dense.HeadOptions`.
    width: channels of the hidden layers of 'fcn'.

  Raises:
    ValueError: fewer than two classes, or as `dense.dense_method`.
  """
  if classes < 2:
    raise ValueError(f'classes={classes}: segmentation tells at least 2 classes apart.')

  def loss_of(logits: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    labels = dense.require_field(batch, mask, 'segmentation').astype(jnp.int32)
    value = losses.pixel_cross_entropy(logits, labels, axis=setting.axis)
    known = (labels >= 0) & (labels < classes)
    right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return value, {'pixel_accuracy': losses.mean_of_known(right, known, axis=setting.axis)}

  return dense.dense_method(
    make_encoder,
    setting,
    loss_of,
    channels=classes,
    options=HeadOptions(head, tuple(taps), width),
    frozen=frozen,
    batch_norm=batch_norm,
  )
