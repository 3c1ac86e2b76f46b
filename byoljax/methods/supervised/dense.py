"""What methods with a truth at every pixel share: an encoder, a head on its maps, how they learn.

The encoder starts from `setting.given['encoder']` where there is one. Frozen, it runs in evaluation
mode, gets no gradient, and keeps every bit; fine-tuned, everything is trained.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
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
from byoljax.methods import checks
from byoljax.models.dense_heads import HEADS, UP_CHANNELS, DenseHead
from byoljax.models.net import Net, Statistics, stack
from byoljax.models.taps import maps_of
from byoljax.suggest import check_name

PyTree = Any
OUTPUT = 'output'
# Large enough for every encoder's kernels and patches; nothing of that size is computed.
_PROBED = 224


class HeadOptions(NamedTuple):
  """What is put on the encoder, see `models.dense_heads`.

  Attributes:
    head: one of `HEADS`.
    taps: which maps, or tokens, of the encoder it reads, the shallowest first; () for its kind's
      own: of 'skips' the last map of each size, or tokens at each quarter of the depth; of the
      others the last one.
    width: channels of the hidden layers of 'fcn'.
    up_channels: of each block of 'up'.
  """

  head: str = 'linear'
  taps: tuple[str, ...] = ()
  width: int = 256
  up_channels: tuple[int, ...] = UP_CHANNELS


# (outputs [b,H,W,channels], batch) -> (this device's loss, metrics)
LossOf = Callable[[jax.Array, Batch], tuple[jax.Array, dict[str, jax.Array]]]


def dense_method(
  make_encoder: MakeEncoder,
  setting: Setting,
  loss_of: LossOf,
  *,
  channels: int,
  options: HeadOptions,
  frozen: bool,
  batch_norm: str,
  start: float = 0.0,
) -> Method:
  """A method that learns numbers at every pixel.

  Args:
    make_encoder: the encoder that `setting.given['encoder']`, if any, belongs to.
    setting: the run.
    loss_of: see `LossOf`.
    channels: of the output.
    options: of the head.
    frozen: whether the encoder stays as it is.
    batch_norm: of an encoder that is trained: 'batch' normalizes with the batch's statistics,
      'frozen' with the running ones, which then stay. The head's are always those of the batch.
    start: the output before training.

  Raises:
    ValueError: an unknown head, tap or `batch_norm`, or an encoder without a map.
  """
  checks.check_batch_norm(batch_norm)
  net = network(
    make_encoder(setting.axis),
    options,
    channels,
    image_channels=len(setting.mean),
    start=start,
    axis=setting.axis,
    dtype=setting.dtype,
  )
  in_training = ('head',) if frozen or batch_norm == 'frozen' else ('encoder', 'head')
  given = setting.given.get('encoder')

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, Statistics]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), checks.only_view(batch))
    if given is not None:
      params['encoder'], bn['encoder'] = jax.tree.map(
        jnp.array, (given.params['encoder'], given.bn['encoder'])
      )
    return params, Statistics(bn)

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    (view,) = batch['views']
    if frozen:
      params = params | {'encoder': lax.stop_gradient(params['encoder'])}
    outputs, bn = net.apply(
      params, state.bn, view, train=in_training, inputs={'head': {'image': view}}
    )
    value, metrics = loss_of(outputs[OUTPUT], batch)
    return value, Aux(Statistics(bn), lax.stop_gradient(metrics), outputs['embedding'])

  # The optimizer would move a frozen encoder, too: by decay, and by what it remembers.
  starts = {'encoder': setting.length.total_steps} if frozen else {}
  embed = evaluation_outputs(net, 'embedding')
  return Method(init, loss, keep, embed, default_groups, net=net, starts=starts)


def network(
  encoder: nn.Module,
  options: HeadOptions,
  channels: int,
  *,
  image_channels: int = 3,
  start: float = 0.0,
  axis: str | None = None,
  dtype: str = 'float32',
) -> Net:
  """The encoder with a head behind it: outputs 'embedding' and 'output', parts of these roles.

  The head takes the image as a further input, `inputs={'head': {'image': image}}`, and then gives
  its output at every pixel: float32 [b,H,W,channels].

  Args:
    encoder: any with maps or tokens.
    options: of the head.
    channels: of the output.
    image_channels: of the images.
    start: the output before training.
    axis: mapped axis whose devices share batch statistics in training.
    dtype: compute type of the head.

  Raises:
    ValueError: see `dense_method`.
  """
  check_name('head', options.head, HEADS)
  if min((options.width, *options.up_channels)) < 1:
    raise ValueError(
      f'width={options.width} and up_channels={options.up_channels} of a head must be at least 1.'
    )
  taps = tuple(options.taps) or default_taps(encoder, image_channels, options.head == 'skips')
  valid = _maps(encoder, image_channels)
  for tap in taps:
    check_name('tap', tap, valid)
  head = DenseHead(
    options.head,
    channels,
    width=options.width,
    up_channels=tuple(options.up_channels),
    start=start,
    bn_axis=axis,
    dtype=jnp.dtype(dtype),
  )
  parts = (('encoder', 'embedding', encoder), ('head', OUTPUT, head))
  return stack(parts, reads={'head': taps})


def default_taps(encoder: nn.Module, channels: int, several: bool) -> tuple[str, ...]:
  """The last map of an encoder, or the last one of each size, or tokens of four depths.

  Raises:
    ValueError: it has neither maps nor tokens.
  """
  found = _maps(encoder, channels)
  if not several:
    return (list(found)[-1],)
  last = {shape[1:3]: name for name, shape in found.items() if len(shape) == 4}
  if last:
    return tuple(last.values())
  # 'tokens' are those of the last block, normalized.
  names = list(found)
  blocks = names[:-1] if len(names) > 1 else names
  quarters = [blocks[-(-len(blocks) * part // 4) - 1] for part in (1, 2, 3)]
  return tuple(dict.fromkeys([*quarters, names[-1]]))


def _maps(encoder: nn.Module, channels: int) -> dict[str, tuple[int, ...]]:
  """Shapes of everything that a dense head can read, in the order in which it is computed."""
  shapes = maps_of(encoder, channels, _PROBED)
  found = {name: shape for name, shape in shapes.items() if len(shape) in (3, 4)}
  if not found:
    raise ValueError(
      f'{type(encoder).__name__} has no feature map that a dense head could read: take a '
      'convolutional encoder or a vision transformer; a module of your own needs '
      'self.sow("intermediates", "map", x).'
    )
  return found


def require_field(batch: Batch, field: str, what: str) -> jax.Array:
  """The truth beside the one view: [b,H,W].

  Raises:
    ValueError: there is none, or not one number a pixel.
  """
  if field not in batch:
    raise ValueError(f"{what} needs the field '{field}' beside the images: name it in data.fields.")
  (values,) = batch[field]
  if values.ndim != 4 or values.shape[-1] != 1:
    raise ValueError(
      f"the field '{field}' has shape {values.shape}, but {what} needs one number a pixel: "
      'masks whose classes are colors must be stored as palette or gray images.'
    )
  return values[..., 0]
