"""Distillation on unlabelled images: the third step of SimCLR v2 (arXiv 2006.10029, section 2).

A student, of any size and from any start, learns the probabilities that a frozen classifier gives
to the same augmented image (crop and flip only). No label is read.

As in the paper the loss has no factor T^2, which one of the authors' notebooks multiplies it by;
LARS, which they train with, hardly sees it. Their optional supervised term is left out: labelled
images belong to fine-tuning.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.losses import distillation as losses
from byoljax.losses.contrastive import check_temperature
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  keep,
)
from byoljax.models import heads
from byoljax.models.net import Net, Statistics, stack

PyTree = Any


class StudentState(Statistics):
  """What distillation keeps beside the student's parameters.

  Attributes:
    teacher: the teacher's {'params', 'bn'}; they never change.
  """

  teacher: PyTree


def distillation(net: Net, teacher: Any, *, temperature: float, classifies: str = '') -> Method:
  """Distillation into a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'logits' [b, C].
    teacher: a classifier, see `method.Setting.given`.
    temperature: T of both softmaxes.
    classifies: see `Method`.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, StudentState]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), batch['views'][0])
    frozen = {'params': teacher.params, 'bn': teacher.bn}
    return params, StudentState(bn, jax.tree.map(jnp.array, frozen))

  def loss(
    params: PyTree, state: StudentState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    images = batch['views'][0]
    targets = lax.stop_gradient(teacher.read(state.teacher['params'], state.teacher['bn'], images))
    outputs, bn = net.apply(params, state.bn, images, train=True)
    value = jnp.mean(losses.distillation(outputs['logits'], targets, temperature))
    agree = jnp.argmax(outputs['logits'], axis=-1) == jnp.argmax(targets, axis=-1)
    metrics = {'agreement': jnp.mean(agree.astype(jnp.float32))}
    return value, Aux(state.replace(bn=bn), metrics, outputs['embedding'])

  def embed(params: PyTree, state: StudentState, images: jax.Array) -> dict[str, jax.Array]:
    outputs, _ = net.apply(params, state.bn, images, train=False)
    return {tap: outputs[tap] for tap in ('embedding', 'logits')}

  return Method(init, loss, keep, embed, default_groups, net=net, classifies=classifies)


def build(make_encoder: MakeEncoder, setting: Setting, *, temperature: float = 1.0) -> Method:
  """Builds distillation from an encoder factory and its configuration.

  Args:
    make_encoder: the student's, called with the mapped axis.
    setting: the run; it must hold the teacher.
    temperature: T > 0; 1 from a large teacher to a small student, .1 to one of its own size.

  Raises:
    ValueError: there is no teacher, or T <= 0.
  """
  check_temperature(temperature)
  teacher = setting.given.get('teacher')
  if teacher is None:
    raise ValueError(
      'distillation needs a teacher: set config.teacher to the directory of a linear evaluation.'
    )
  net = stack(
    (
      ('encoder', 'embedding', make_encoder(setting.axis)),
      ('head', 'logits', heads.LinearHead(teacher.dim)),
    )
  )
  # What the teacher tells apart are the classes of the data, as far as numbers can say.
  own = 'online' if teacher.dim == setting.num_classes else ''
  return distillation(net, teacher, temperature=temperature, classifies=own)
