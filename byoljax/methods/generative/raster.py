"""What methods have in common that predict every number of an image from those before it.

The network is a causal encoder (`models.pixelcnn`) and a head on its last map. Images are whole
numbers in [0, K), see `losses.likelihoods`; the loss is the mean over all numbers of an image, in
nats, and 'bits_per_dim' the same in bits.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.losses import likelihoods
from byoljax.method import (
  Aux,
  Batch,
  Method,
  Refresh,
  Setting,
  default_groups,
  evaluation_outputs,
  keep,
)
from byoljax.methods.checks import only_view
from byoljax.methods.reconstruction.autoencoder import to_normalized, to_pixels
from byoljax.models import rescaled
from byoljax.models.net import Inputs, Net, Statistics, WithTarget, stack
from byoljax.models.taps import truncate
from byoljax.ops import ema
from byoljax.ops import sampling as drawing
from byoljax.ops.sampling import Sampling

PyTree = Any
HEAD, FEATURES, PIXELS = 'logits', 'features', 'pixels'
_FITTED_TO = 64  # images


class Distribution(NamedTuple):
  """What a head's output says about a pixel.

  Attributes:
    levels: K, values of a number.
    nll: (output [b,H,W,...], numbers int32 [b,H,W,C]) -> -log p(x_i | what is before), float32
      nats, one value for each pixel or for each of its numbers.
    draw: (keys [n], place, output [n,...], numbers int32 [n,C], number of the pass, sampling) ->
      int32 [n,C]: the pixel with what this pass decides. `place` counts passes.
    passes: through the network for a pixel.
  """

  levels: int
  nll: Callable[[jax.Array, jax.Array], jax.Array]
  draw: Callable[..., jax.Array]
  passes: int


def raster_model(
  net: Net,
  setting: Setting,
  distribution: Distribution,
  noise: Callable[[jax.Array, int], Inputs] | None = None,
  average: float = 0.0,
  fitted: bool = False,
) -> Method:
  """A method that learns the distribution of images number by number.

  Args:
    net: outputs 'embedding' and 'logits', the head's of the map 'features'; its encoder has an
      attribute `reach`, in pixels.
    setting: the run.
    distribution: see `Distribution`.
    noise: (key of the loss, images) -> further inputs of the network in training; None: none.
    average: decay of an average of the parameters, which samples and bits are of, and which is the
      network 'target'; 0: there is none.
    fitted: whether the first parameters are made to fit some images (`models.rescaled`).
  """
  levels, colors = distribution.levels, len(setting.mean)

  def seen(numbers: jax.Array) -> jax.Array:
    return to_normalized(likelihoods.values_of(numbers, levels), setting)

  def numbers_of(view: jax.Array) -> jax.Array:
    return likelihoods.levels_of(to_pixels(view, setting), levels)

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, Statistics]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), batch['views'][0])
    return params, with_average(params, Statistics(bn))

  def with_average(params: PyTree, state: Statistics) -> Statistics:
    """The state in which the average begins at the parameters."""
    if not average:
      return state
    return WithTarget(state.bn, *jax.tree.map(jnp.copy, (params, state.bn)))

  def averaged(params: PyTree, state: Statistics) -> PyTree:
    return state.target_params if isinstance(state, WithTarget) else params

  def follow(
    params: PyTree, state: WithTarget, step: jax.Array
  ) -> tuple[PyTree, WithTarget, dict[str, jax.Array]]:
    del step
    own = {role: params[role] for role in state.target_params}
    moved = ema.update(state.target_params, own, average)
    told = {'tau': jnp.float32(average)}
    return params, state.replace(target_params=moved, target_bn=state.bn), told

  def fit(
    params: PyTree, state: Statistics, features: Any, key: jax.Array, step: int
  ) -> tuple[PyTree, Statistics]:
    del key
    if step > 0:
      return params, state
    flat = jnp.asarray(features()[PIXELS])
    side = math.isqrt(flat.shape[1] // colors)
    images = seen(numbers_of(flat.reshape(-1, side, side, colors)))
    params, _ = rescaled.rescaled(net, params, state.bn, images)
    return params, with_average(params, state)

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del key, step
    numbers = numbers_of(only_view(batch))
    return batch | {'views': (seen(numbers),), 'numbers': numbers}

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del step
    view, numbers = batch['views'][0], batch['numbers']
    inputs = None if noise is None else noise(key, len(view))
    made, bn = net.apply(params, state.bn, view, train=True, inputs=inputs)
    value = distribution.nll(made[HEAD], numbers).sum() / numbers.size
    metrics = {'bits_per_dim': likelihoods.bits(lax.stop_gradient(value))}
    return value, Aux(state.replace(bn=bn), metrics, made['embedding'])

  def bits(params: PyTree, state: Statistics, batch: Batch) -> jax.Array:
    numbers = numbers_of(batch['views'][0])
    made, _ = net.apply(averaged(params, state), state.bn, seen(numbers), train=False)
    nats = distribution.nll(made[HEAD], numbers)
    return likelihoods.bits_of_each(nats, numbers[0].size)

  def sample(
    params: PyTree, state: Statistics, key: jax.Array, condition: Any, sampling: Sampling
  ) -> jax.Array:
    refuse_condition(condition)
    params = averaged(params, state)
    trunk, head = truncate(net, (FEATURES,)), stack(net.parts[-1:])
    role, size, reach = net.parts[-1][0], sampling.size, net.parts[0][2].reach
    rows, columns = min(size, reach + 1), min(size, 2 * reach + 1)
    keys = drawing.keys(key, sampling.count)

    def next_number(place: jax.Array, numbers: jax.Array) -> jax.Array:
      y, x = jnp.divmod(place // distribution.passes, size)
      # The part that the pixel depends on; at the image's border, where padding is, it ends there.
      top, left = jnp.clip(y - reach, 0, size - rows), jnp.clip(x - reach, 0, size - columns)
      part = (sampling.count, rows, columns, colors)
      around = lax.dynamic_slice(numbers, (0, top, left, 0), part)
      made, _ = trunk.apply(params, state.bn, seen(around), train=False)
      features = made[FEATURES]
      own = (*features.shape[:1], 1, 1, features.shape[-1])
      features = lax.dynamic_slice(features, (0, y - top, x - left, 0), own)
      found, _ = head.apply({role: params[role]}, {role: state.bn[role]}, features, train=False)
      before = lax.dynamic_slice(numbers, (0, y, x, 0), (sampling.count, 1, 1, colors))[:, 0, 0]
      part_of = place % distribution.passes
      drawn = distribution.draw(keys, place, found[HEAD][:, 0, 0], before, part_of, sampling)
      return lax.dynamic_update_slice(numbers, drawn[:, None, None], (0, y, x, 0))

    empty = jnp.zeros((sampling.count, size, size, colors), jnp.int32)
    numbers = lax.fori_loop(0, size * size * distribution.passes, next_number, empty)
    return likelihoods.values_of(numbers, levels)

  embed = evaluation_outputs(net, 'embedding')
  # Never again: the first parameters are those of step 0.
  refresh = Refresh(every=2**31 - 1, apply=fit, embed=_pixels, rows=_FITTED_TO, initial=True)
  post_step = follow if average else keep
  return Method(
    init, loss, post_step, embed, default_groups, net=net, transform=transform, sample=sample,
    bits=bits, refresh=refresh if fitted else None,
  )  # fmt: skip


def _pixels(params: PyTree, state: Statistics, images: jax.Array) -> dict[str, jax.Array]:
  """{'pixels': [N, H W C]}."""
  del params, state
  return {PIXELS: images.reshape(len(images), -1)}


def refuse_condition(condition: Any) -> None:
  """Raises ValueError where a class is asked for and the method knows none."""
  if condition is not None:
    raise ValueError('this method was trained without classes: leave the class out.')


def check_levels(levels: int) -> None:
  """Raises ValueError unless there are as many values of a number."""
  if not 2 <= levels <= 256 or levels != int(levels):
    raise ValueError(f'levels={levels} must be a whole number from 2 to 256, the values of a byte.')
