"""DINO: self-distillation with no labels (Caron et al. 2021, arXiv 2104.14294).

A student matches, from all crops, the probabilities that a slowly moving teacher gives to the two
global ones. Centering and sharpening of the teacher keep it from collapsing; there is no predictor
and there are no negatives.

As in the authors' code: every global crop of the teacher meets every other crop of the student; the
center is a moving average over the global batch and moves after the loss; the last layer is not
trained in the beginning (`freeze_last`); crops of one size go through the networks together; the
teacher starts as a copy, its running statistics (of encoders that have any) are its own, and its
parameters move after each step with tau rising to 1 on a cosine.

Different from the authors' code: the teacher's temperature rises per step, not per epoch; there is
no stochastic depth.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy.special import entr

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import clustering
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  evaluation_outputs,
)
from byoljax.methods import notes
from byoljax.methods.checks import check_sizes, require_other_images, several_views
from byoljax.methods.plain import move_target
from byoljax.models import heads
from byoljax.models.multicrop import apply_crops
from byoljax.models.net import Net, WithTarget, output_shapes
from byoljax.ops import ema
from byoljax.suggest import check_name

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array]

GLOBAL_CROPS = 2


class DinoState(WithTarget):
  """What DINO changes without a gradient; the target is the teacher.

  Attributes:
    center: float32 [1, K], the moving average of the teacher's logits.
  """

  center: jax.Array


def dino(
  net: Net,
  *,
  tau: Schedule,
  student_temperature: float,
  teacher_temperature: Schedule,
  center_momentum: float,
  accumulate: int,
  freeze_steps: int,
  axis: str | None,
) -> Method:
  """DINO over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'projection', logits [b, K]; the layer that is frozen at first is
      `params['projector']['last']`.
    tau: step -> weight of the old teacher in the moving average, in [0, 1].
    student_temperature: of the student's softmax.
    teacher_temperature: step -> temperature of the teacher's softmax.
    center_momentum: weight of the old center after a step, in [0, 1]; 1 keeps it at zero.
    accumulate: micro-batches of a step.
    freeze_steps: steps before the last layer is trained.
    axis: the mapped axis.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, DinoState]:
    view = several_views(batch)[0]
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), view)
    width = output_shapes(net, params, bn, view)['projection'].shape[-1]
    center = jnp.zeros((1, width), jnp.float32)
    target_params, target_bn = jax.tree.map(jnp.copy, (params, bn))
    return params, DinoState(bn, target_params, target_bn, center)

  def loss(
    params: PyTree, state: DinoState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key
    views = batch['views']
    require_other_images(len(views[0]), axis)
    teacher, target_bn = apply_crops(
      net, state.target_params, state.target_bn, views[:GLOBAL_CROPS], train=True
    )
    logits = [lax.stop_gradient(crop['projection']) for crop in teacher]
    temperature = teacher_temperature(step)
    targets = [jax.nn.softmax((each - state.center) / temperature, axis=-1) for each in logits]
    student, bn = apply_crops(net, params, state.bn, views, train=True)
    value = clustering.self_distillation(
      targets, [crop['projection'] for crop in student], student_temperature
    )
    batch_center = collectives.pmean(jnp.mean(jnp.stack(logits), axis=(0, 1)), axis)[None]
    spread = collectives.pmean(jnp.mean(targets[0], axis=0), axis)
    metrics = {
      # Collapse is either one of the two: all mass on one output, or targets that do not differ.
      'collapse/teacher_entropy': jnp.mean(jnp.sum(entr(targets[0]), axis=-1)),
      'collapse/mean_target_entropy': jnp.sum(entr(spread)),
    }
    new_state = state.replace(bn=bn, target_bn=target_bn)
    embedding, *others = (crop['embedding'] for crop in student)
    return value, Aux(new_state, metrics, embedding, batch_center, tuple(others))

  def remember(state: DinoState, rows: jax.Array, finite: jax.Array) -> DinoState:
    # Of every micro-batch: the weights of a step's are together those of one batch.
    kept = center_momentum ** (1.0 / accumulate)
    moved = kept * state.center + (1.0 - kept) * rows
    return state.replace(center=jnp.where(finite, moved, state.center))

  embed = evaluation_outputs(net, 'embedding', 'projection')
  starts = {'projector/last': freeze_steps}
  return Method(
    init,
    loss,
    move_target(tau),
    embed,
    default_groups,
    net=net,
    starts=starts,
    remember=remember,
    encodes_all_views=True,
    only_encodes_views=True,
  )


def linear_rise(start: float, end: float, steps: int) -> Schedule:
  """step -> start at step 0, rising in a straight line to end at `steps`, then end."""

  def schedule(step: jax.Array) -> jax.Array:
    done = jnp.clip(jnp.asarray(step, jnp.float32) / max(steps, 1), 0.0, 1.0)
    return start + (end - start) * (done if steps else jnp.ones_like(done))

  return schedule


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (2048, 2048, 256),
  outputs: int = 65536,
  projector_norm: bool = False,
  student_temperature: float = 0.1,
  teacher_temperature: float = 0.04,
  teacher_temperature_start: float = 0.04,
  teacher_warmup: str = '0 epochs',
  base_tau: float = 0.996,
  center_momentum: float = 0.9,
  freeze_last: str = '1 epochs',
  last_init: str = 'torch',
) -> Method:
  """Builds DINO from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics, if any, are synchronized.
    setting: the run; tau reaches 1 at its last step.
    projector: hidden sizes and the bottleneck.
    outputs: K >= 2, size of the probabilities.
    projector_norm: batch normalization in the projector, for convolutional encoders.
    student_temperature: > 0.
    teacher_temperature: > 0, after its warm-up; above .07 training tends to collapse.
    teacher_temperature_start: > 0, at step 0 of a warm-up.
    teacher_warmup: a duration; 0: there is none.
    base_tau: tau at step 0, in [0, 1].
    center_momentum: weight of the old center, in [0, 1]; 1 removes the centering.
    freeze_last: a duration, before which the last layer is not trained.
    last_init: how the last layer starts, a key of `heads.KERNEL_INITS`; 'torch' as in the authors'
      code. The smaller its weights, the faster its directions turn.

  Raises:
    ValueError: values out of range, or an unknown `last_init`.
  """
  check_sizes(projector)
  check_name('last_init', last_init, heads.KERNEL_INITS)
  temperatures = (student_temperature, teacher_temperature, teacher_temperature_start)
  if outputs < 2 or min(temperatures) <= 0 or not 0 <= center_momentum <= 1:
    raise ValueError(
      f'outputs={outputs} must be at least 2, the temperatures {temperatures} positive and '
      f'center_momentum={center_momentum} between 0 and 1.'
    )
  head = heads.DINOHead(
    features=tuple(projector),
    count=outputs,
    norm=projector_norm,
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
    last_init=last_init,
  )
  net = heads.with_projector(make_encoder(setting.axis), head)
  rising = setting.length.steps('teacher_warmup', teacher_warmup)
  frozen = setting.length.steps('freeze_last', freeze_last)
  method = dino(
    net,
    tau=ema.cosine_tau(base_tau, setting.length.total_steps, setting.length.steady_steps),
    student_temperature=student_temperature,
    teacher_temperature=linear_rise(teacher_temperature_start, teacher_temperature, rising),
    center_momentum=center_momentum,
    accumulate=setting.accumulate,
    freeze_steps=frozen,
    axis=setting.axis,
  )
  never = 'the last layer is never trained'
  told = notes.of_late('freeze_last', freeze_last, frozen, setting, never)
  if teacher_temperature != teacher_temperature_start:
    never = f'the temperature does not reach teacher_temperature={teacher_temperature}'
    # A rise that ends with the run is none too long.
    told += notes.of_late('teacher_warmup', teacher_warmup, rising - 1, setting, never)
    if not rising:
      told += (
        f'teacher_temperature_start={teacher_temperature_start} is not used: without a '
        f'teacher_warmup the temperature is {teacher_temperature} from the first step on.',
      )
  return method._replace(notes=told)
