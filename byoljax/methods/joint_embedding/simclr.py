"""SimCLR v1 and v2 (Chen et al. 2020, arXiv 2002.05709 and 2006.10029).

Every view identifies the other view of its image among all views of the global batch by NT-Xent.
Both views go through the network together, in one batch of its normalization, over all devices.

As in the authors' code: the loss is the sum over the two views of the mean over images, twice the
paper's mean over all anchors; no linear layer of the head has a bias; its output is normalized over
the batch with a scale and no shift; kernels of the head start as N(0, .01).

v2 is a deeper head (three layers) on a larger encoder, fine-tuned from the head's first layer,
which `embed` gives as the tap 'hidden1'. Its optional memory (`memory_size`) holds projections of a
slowly moving copy of the network as further negatives; the paper describes it, the code leaves it
out.

`chunk` streams over the candidates of the loss, for batches whose similarities do not fit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import contrastive
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  comparison,
  default_groups,
  keep,
)
from byoljax.methods import notes
from byoljax.methods.checks import check_sizes, require_other_images, two_views
from byoljax.methods.plain import move_target
from byoljax.models import heads
from byoljax.models.net import Net, Statistics, output_shapes, stack
from byoljax.ops import ema, ring, sphere

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array]


class SimclrState(Statistics):
  """What SimCLR changes without a gradient; the last three are None without a memory.

  Attributes:
    target_params: the memory's network, a moving average.
    target_bn: its running statistics.
    queue: its earlier projections, unit rows.
  """

  target_params: PyTree
  target_bn: PyTree
  queue: ring.Queue | None


def simclr(
  net: Net,
  tapped: Net,
  *,
  taps: tuple[str, ...],
  temperature: float,
  chunk: int,
  memory_size: int,
  memory_tau: Schedule,
  axis: str | None,
) -> Method:
  """SimCLR over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'projection'.
    tapped: the same with the taps of the head among its outputs.
    taps: what `embed` gives.
    temperature: T of NT-Xent.
    chunk: candidates at a time, 0 for all at once.
    memory_size: queued negatives, 0 for none.
    memory_tau: step -> weight of the old parameters in the memory's network, in [0, 1].
    axis: the mapped axis.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, SimclrState]:
    view, _ = two_views(batch)
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), view)
    if not memory_size:
      return params, SimclrState(bn, None, None, None)
    width = output_shapes(net, params, bn, view)['projection'].shape[-1]
    queue = ring.init(jax.random.fold_in(key, streams.QUEUE), memory_size, width)
    target_params, target_bn = jax.tree.map(jnp.copy, (params, bn))
    return params, SimclrState(bn, target_params, target_bn, queue)

  def loss(
    params: PyTree, state: SimclrState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    views = jnp.concatenate(two_views(batch))
    outputs, bn = net.apply(params, state.bn, views, train=True)
    first, second = jnp.split(outputs['projection'], 2)
    value, metrics = comparison(compare, (first, second), state, batch, key, step)
    embedding, other = jnp.split(outputs['embedding'], 2)
    target_bn, rows = _keys(state, views)
    new_state = state.replace(bn=bn, target_bn=target_bn)
    return value, Aux(new_state, metrics, embedding, rows, (other,), (first, second))

  def compare(
    compared: tuple[jax.Array, jax.Array], state: SimclrState, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    del key, step
    memory = None if state.queue is None else state.queue.items
    if memory is None:
      require_other_images(len(compared[0]), axis)
    of_first, of_second = contrastive.nt_xent(
      *compared, temperature, axis=axis, chunk=chunk, memory=memory, memory_size=memory_size
    )
    return jnp.mean(of_first) + jnp.mean(of_second), {}

  def _keys(state: SimclrState, views: jax.Array) -> tuple[PyTree, PyTree]:
    """The memory network's statistics, and its projections of all devices as unit rows."""
    if state.queue is None:
      return state.target_bn, ()
    outputs, target_bn = net.apply(state.target_params, state.target_bn, views, train=True)
    rows = lax.stop_gradient(sphere.normalize(outputs['projection']))
    gathered = [collectives.all_gather(half, axis) for half in jnp.split(rows, 2)]
    return target_bn, jnp.concatenate(gathered)

  def remember(state: SimclrState, rows: PyTree, finite: jax.Array) -> SimclrState:
    if state.queue is None:
      return state
    return state.replace(queue=ring.push(state.queue, rows, finite, size=memory_size, axis=axis))

  def embed(params: PyTree, state: SimclrState, images: jax.Array) -> dict[str, jax.Array]:
    outputs, _ = tapped.apply(params, state.bn, images, train=False)
    return {tap: outputs[tap] for tap in taps}

  return Method(
    init,
    loss,
    move_target(memory_tau) if memory_size else keep,
    embed,
    default_groups,
    remember=remember,
    net=net,
    memories=ring.MEMORIES,
    encodes_all_views=True,
    compare=compare,
    only_encodes_views=True,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (2048, 128),
  projector_norm: bool = True,
  temperature: float = 0.1,
  chunk: int = 0,
  memory_size: int = 0,
  memory_tau: float = 0.999,
) -> Method:
  """Builds SimCLR from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    projector: sizes of its layers: (2048, 128) for v1's paper, (2048, 2048, 128) for v2.
    projector_norm: False for solo-learn's head: biases and no normalization, PyTorch's start.
    temperature: .1 on ImageNet, .5 on CIFAR-10.
    chunk: candidates of the loss at a time, 0 for all at once; it does not change the result.
    memory_size: queued negatives of v2's memory, 65536 in the paper; 0 for none.
    memory_tau: weight of the old parameters in the memory's network, in [0, 1].

  Raises:
    ValueError: values out of range.
  """
  check_sizes(projector)
  contrastive.check_temperature(temperature)
  if chunk < 0 or memory_size < 0:
    raise ValueError(f'chunk={chunk} and memory_size={memory_size} must be 0 or more.')
  head = heads.MLPHead(
    features=tuple(projector),
    norm=projector_norm,
    hidden_bias=not projector_norm,
    last_bias=not projector_norm,
    last_norm='bn_no_bias' if projector_norm else 'none',
    kernel_init='normal_0.01' if projector_norm else 'torch',
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
  )
  parts = (
    ('encoder', 'embedding', make_encoder(setting.axis)),
    ('projector', 'projection', head),
  )
  hidden = ('hidden1',) if len(projector) > 1 else ()
  method = simclr(
    stack(parts),
    stack(parts, taps=hidden),
    taps=('embedding', *hidden, 'projection'),
    temperature=temperature,
    chunk=chunk,
    memory_size=memory_size,
    memory_tau=ema.constant_tau(memory_tau),
    axis=setting.axis,
  )
  return method._replace(notes=notes.of_queue(memory_size, setting, 'is among its negatives'))
