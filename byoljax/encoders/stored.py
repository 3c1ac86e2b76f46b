"""Encoders read from runs: weights, and the place (tap) where they are read out.

One idea for every evaluation: an `Encoder` is a network with weights and a tap. Its features are
the encoder's own output ('embedding', h), an inner feature map ('stage1', averaged over its
places), or what the run's heads make of it ('projection', z, and 'prediction', p). Of a checkpoint
only the parts before the tap are read. The baselines that a result has to beat are encoders, too.
"""

from collections.abc import Mapping, Sequence
import difflib
import functools
import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.config import Config, ConfigError, choose, user_errors
from byoljax.data.augment import device
from byoljax.data.batches import pipeline
from byoljax.data.sources import datasets
from byoljax.method import NETWORKS
from byoljax.models import make_encoder, rescaled
from byoljax.models.net import Net, cut, pooled, stack, taps_of
from byoljax.train import assemble
from byoljax.workdir import checkpoint, run_dir

PyTree = Any

# What a result has to be compared with; nothing is read from the checkpoint.
BASELINES = ('random', 'random_rescaled', 'pixels')
EMBEDDING = 'embedding'
# Training images that 'random_rescaled' is fitted to.
RESCALED_ON = 256


class Encoder(NamedTuple):
  """An encoder with its weights, and the place where it is read out.

  Attributes:
    fields: its configuration, as in `config.encoder`.
    net: the network, as far as the tap needs it: the part 'encoder', and heads behind it.
    params: {'encoder': parameters, ...}.
    bn: {'encoder': running statistics, ...}.
    tap: which of the network's outputs the features are.
  """

  fields: Mapping[str, Any]
  net: Net
  params: PyTree
  bn: PyTree
  tap: str = EMBEDDING

  def read(self, params: PyTree, bn: PyTree, images: jax.Array) -> jax.Array:
    """Features float32 [b, D] of normalized images: a pure function of the weights."""
    return outputs(self.net, (self.tap,), self.pool, params, bn, images)[self.tap]

  @property
  def pool(self) -> str:
    """How a vision transformer's tokens become one vector; see `models.net.pooled`."""
    return self.fields.get('pool', 'cls')


def outputs(
  net: Net, taps: Sequence[str], pool: str, params: PyTree, bn: PyTree, images: jax.Array
) -> dict[str, jax.Array]:
  """{tap: float32 [b, D]} of normalized images in evaluation mode; one vector an image."""
  found, _ = net.apply(params, bn, images, train=False)
  return {tap: pooled(found[tap], pool) for tap in taps}


def network(fields: Mapping[str, Any]) -> Net:
  """The encoder as a network of one part.

  Raises:
    ConfigError: an unknown encoder or option.
  """
  with user_errors('config.encoder'):
    return _network(tuple(sorted(fields.items())))


@functools.cache
def _network(fields: tuple[tuple[str, Any], ...]) -> Net:
  return stack((('encoder', EMBEDDING, make_encoder(**dict(fields))),))


def random_encoder(fields: Mapping[str, Any], image_size: int, seed: int) -> Encoder:
  """An encoder as it is before any training."""
  net = network(fields)
  return Encoder(fields, net, *net.init(jax.random.key(seed), _image(image_size)))


def load_encoder(
  pretrained: str, network_name: str, tap: str = EMBEDDING
) -> tuple[Encoder, Config, pathlib.Path]:
  """Reads only the encoder out of a run's checkpoint, and the heads that the tap is behind.

  Args:
    pretrained: a run's workdir, or one of its checkpoints/<step>.
    network_name: 'online' or 'target'; or a baseline: 'random', the same network as it was before
      training, 'random_rescaled' (`models.rescaled`, on 256 of the run's own images), 'pixels'.
    tap: 'embedding', or another of the network's taps.

  Returns:
    The encoder, the run's configuration and the checkpoint's directory.

  Raises:
    ConfigError: nothing to load there, no such tap, or weights that do not fit the configuration.
  """
  encoder, _, config, directory = load_taps(pretrained, network_name, (tap,))
  return encoder, config, directory


def load_taps(
  pretrained: str, network_name: str, taps: Sequence[str] = ()
) -> tuple[Encoder, tuple[str, ...], Config, pathlib.Path]:
  """As `load_encoder`, as much of a run's network as several taps need.

  Args:
    pretrained: as for `load_encoder`.
    network_name: as for `load_encoder`.
    taps: which outputs; () for all that there are.

  Returns:
    The encoder, read out at the last of the taps; the taps in the order in which they are
    computed; the run's configuration; the checkpoint's directory.

  Raises:
    ConfigError: as `load_encoder`.
  """
  if not pretrained:
    raise ConfigError("config.pretrained is empty: name a run's workdir, such as runs/byol.")
  choose('network', network_name, (*NETWORKS, *BASELINES))
  with user_errors('config.pretrained'):
    directory = checkpoint.checkpoint_directory(pretrained)
  config = run_dir.run_config(directory.parent.parent)
  fields = dict(config.encoder) | ({'name': 'pixels'} if network_name == 'pixels' else {})
  if tuple(taps) == (EMBEDDING,):
    # What every run has; neither its method nor what else it stored is looked at.
    net, chosen = network(fields), (EMBEDDING,)
  else:
    whole = _whole(fields, config, directory, network_name)
    with user_errors('config.encoder'):
      valid = tuple(taps_of(whole, _image(config.evals.image_size)))
    for tap in taps:
      if tap not in valid:
        raise ConfigError(_no_tap(tap, valid, network_name, directory))
    chosen = tuple(tap for tap in valid if not taps or tap in taps)
    net = cut(whole, chosen)
  if network_name in BASELINES:
    weights = net.init(jax.random.key(config.seed), _image(config.evals.image_size))
    if network_name == 'random_rescaled':
      weights = rescaled.rescaled(net, *weights, _some_images(config))
  else:
    weights = _stored(net, config, directory, network_name)
  return Encoder(fields, net, *weights, chosen[-1]), chosen, config, directory


def _image(side: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((2, side, side, 3), np.float32)


def _whole(
  fields: Mapping[str, Any], config: Config, directory: pathlib.Path, network_name: str
) -> Net:
  """The run's network with its heads, as far as this network has them."""
  if network_name == 'pixels':
    return network(fields)
  net = assemble.network(config) or network(fields)
  if network_name in BASELINES:
    return net
  with user_errors('config.pretrained'):
    there = checkpoint.stored_names(directory, NETWORKS[network_name][0])
  parts = tuple(itertools.takewhile(lambda part: part[0] in there, net.parts))
  return stack(parts or net.parts[:1])  # Without an encoder, reading it says what is missing.


def _no_tap(tap: str, valid: Sequence[str], network_name: str, directory: pathlib.Path) -> str:
  close = difflib.get_close_matches(str(tap), valid, n=1)
  hint = f"; did you mean '{close[0]}'?" if close else '.'
  return (
    f"tap='{tap}': the {network_name} network of '{directory.parent.parent}' has no such output; "
    f'taps: {", ".join(valid)}{hint}'
  )


def _stored(
  net: Net, config: Config, directory: pathlib.Path, network_name: str
) -> tuple[PyTree, PyTree]:
  """Parameters and running statistics of the network's parts, out of the checkpoint."""
  where, where_bn = NETWORKS[network_name]
  roles = [role for role, _, _ in net.parts]
  try:
    with user_errors('config.pretrained'):
      with_bn = checkpoint.stored_names(directory, where_bn)
      paths = [(*where, role) for role in roles]
      # Heads without normalization may have left nothing there; the encoder always has its place.
      paths += [(*where_bn, role) for role in roles if role == 'encoder' or role in with_bn]
      found = checkpoint.restore_subtrees(directory, paths)
  except KeyError as error:
    raise ConfigError(
      f"config.network='{network_name}': '{directory}' holds no {error.args[0]}; "
      f'networks: {", ".join(NETWORKS)}.'
    ) from error
  params = {role: found[(*where, role)] for role in roles}
  bn = {role: found.get((*where_bn, role), {}) for role in roles}
  fresh = jax.eval_shape(lambda: net.init(jax.random.key(0), _image(config.evals.image_size)))
  with user_errors(f"config.encoder of '{directory.parent.parent}'"):
    checkpoint.require_equal_shapes((params, bn), fresh)
  return params, bn


def _some_images(config: Config) -> jax.Array:
  """Pretraining images of the run, drawn with a fixed seed, un-augmented and normalized."""
  with user_errors():
    source = datasets.load(config.data.name, 'pretrain', data_dir=config.data.dir)
  order = np.random.default_rng((0, streams.RESCALING)).permutation(source.size)[:RESCALED_ON]
  batches = pipeline.eval_batches(
    source.subset(np.sort(order)), image_size=config.evals.image_size, batch_size=len(order)
  )
  with user_errors():
    (batch,) = batches
  transform = device.make_eval_transform(tuple(config.data.mean), tuple(config.data.std))
  return transform(jnp.asarray(batch['image'][batch['mask']]))
