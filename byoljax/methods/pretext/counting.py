"""Learning to count (Noroozi, Pirsiavash and Favaro 2017, arXiv 1708.06734).

Features phi, zero or more, of an image at half its size are the sum of those of its four quarters,
and not those of another image. What adds up like this are counts of things: `losses.counting`.

As in the paper: ReLU behind the last layer, so that counts are not negative, and no normalization
in the head. Different from it: how the image is made smaller is drawn for each of them from
`kernels`, as in later implementations, so that its traces cannot be counted; y is the next image of
the batch. The encoder is any, with or without normalization, whose statistics are then of wholes
and quarters together; theirs is AlexNet without, 'alexnet_plain'.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.data.augment import quarters
from byoljax.devices import collectives
from byoljax.losses import counting as losses
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
from byoljax.methods.checks import check_sizes, only_view
from byoljax.methods.plain import plain_init
from byoljax.methods.pretext.classification import per_image
from byoljax.models import heads
from byoljax.models.net import Net, Statistics, stack

PyTree = Any
KERNELS = tuple(quarters.KERNELS)


def counting(
  net: Net, *, kernels: Sequence[str] = KERNELS, margin: float = 10.0, axis: str | None = None
) -> Method:
  """Counting over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'projection', the counts.
    kernels: of `quarters.KERNELS`; each image is made smaller by one of them.
    margin: M.
    axis: mapped axis.
  """

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    view = only_view(batch)
    size = view.shape[1]
    matrices = np.stack([quarters.halving_matrix(kernel, size) for kernel in kernels])
    keys = collectives.example_keys(jax.random.fold_in(key, streams.COUNTING), len(view), axis)
    which = jax.vmap(lambda own: jax.random.randint(own, (), 0, len(kernels)))(keys)
    whole = quarters.halved(view, matrices, which)
    seen = jnp.concatenate([whole[None], quarters.quarters(view)])
    return batch | {'views': (seen.reshape(-1, *whole.shape[1:]),)}

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    made, bn = net.apply(params, state.bn, batch['views'][0], train=True)
    counts, embeddings = (
      per_image(made[name], len(batch['index'])) for name in ('projection', 'embedding')
    )
    value, terms = losses.counting(counts[0], counts[1:], margin=margin, axis=axis)
    metrics = {f'loss/{name}': term for name, term in terms.items()}
    metrics['mean_count'] = counts[0].sum(-1).mean()
    return value, Aux(Statistics(bn), metrics, embeddings[0])

  embed = evaluation_outputs(net, 'embedding', 'projection')
  return Method(plain_init(net), loss, keep, embed, default_groups, net=net, transform=transform)


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (4096, 4096, 1000),
  margin: float = 10.0,
  kernels: Sequence[str] = KERNELS,
) -> Method:
  """Builds counting from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    projector: sizes of phi's layers, each followed by a ReLU; the last is the number of counts.
    margin: M, above 0, in squared distance of counts.
    kernels: how images are made smaller, of 'nearest', 'area', 'bilinear', 'bicubic' and
      'lanczos3'; a single one is the ablation whose traces can be counted.

  Raises:
    ValueError: no layer, a margin that is not positive, no kernel or an unknown one.
  """
  check_sizes(projector)
  if margin <= 0:
    raise ValueError(f'margin={margin} must be positive: without it all counts may be 0.')
  if not kernels:
    raise ValueError(f'kernels=() is empty: name some of {", ".join(KERNELS)}.')
  for kernel in kernels:
    quarters.halving_matrix(kernel, 2)
  head = heads.MLPHead(
    features=tuple(projector), norm=False, trunk=True, dtype=jnp.dtype(setting.dtype)
  )
  parts = (
    ('encoder', 'embedding', make_encoder(setting.axis)),
    ('projector', 'projection', head),
  )
  return counting(stack(parts), kernels=tuple(kernels), margin=margin, axis=setting.axis)
