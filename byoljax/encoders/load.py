"""Encoders read from runs: `byoljax.load('runs/byol')`, by network and tap.

Of a checkpoint only the parts before the tap are read. The baselines that a result has to beat are
encoders, too: the network before training, the same with units that fit the data, and raw pixels.
"""

from collections.abc import Mapping, Sequence
import difflib
import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.config import Config, ConfigError, choose, user_errors
from byoljax.data.batches import pipeline
from byoljax.data.sources import datasets
from byoljax.devices import hosts, processes
from byoljax.encoders import method_network
from byoljax.encoders.encoder import (
  EMBEDDING,
  Encoder,
  Preprocessing,
  network,
  pool_of,
)
from byoljax.encoders.method_network import preprocessing_of
from byoljax.method import NETWORKS
from byoljax.models import METHODS_OWN, rescaled
from byoljax.models.net import Net, stack
from byoljax.models.taps import taps_of, truncate
from byoljax.ops import trees
from byoljax.workdir import checkpoint, integrity, run_dir

PyTree = Any

# What a result has to be compared with; nothing is read from the checkpoint.
BASELINES = ('random', 'random_rescaled', 'pixels')
# Training images that 'random_rescaled' is fitted to.
RESCALED_ON = 256


class Loaded(NamedTuple):
  """What is read of a run.

  Attributes:
    encoder: read out at the last of the taps.
    taps: the taps that were asked for, in the order in which they are computed.
    config: the run's configuration.
    directory: the checkpoint's directory.
  """

  encoder: Encoder
  taps: tuple[str, ...]
  config: Config
  directory: pathlib.Path


def load(
  run: str | pathlib.Path, network: str = 'online', tap: str = EMBEDDING, *, module: Any = None
) -> Encoder:
  """The encoder of a run.

  Args:
    run: a run's directory, or one of its checkpoints/<step>.
    network: 'online' or 'target'; 'random', 'random_rescaled' and 'pixels' are baselines.
    tap: where it is read out: 'embedding', an inner map such as 'stage1', 'projection', ...
    module: the linen module that was trained, where it is one of the user's own; or whatever else
      `models.encoder_factory` takes.

  Raises:
    ConfigError: nothing to load there, or no such tap.
  """
  return load_taps(str(run), network, (tap,), module=module).encoder


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
  pretrained: str, network_name: str, taps: Sequence[str] = (), *, module: Any = None
) -> Loaded:
  """As `load_encoder`, as much of a run's network as several taps need.

  Args:
    pretrained: as for `load_encoder`.
    network_name: as for `load_encoder`.
    taps: which outputs; () for all that there are.
    module: as for `load`.

  Raises:
    ConfigError: as `load_encoder`.
  """
  if not pretrained:
    raise ConfigError("config.pretrained is empty: name a run's workdir, such as runs/byol.")
  choose('network', network_name, (*NETWORKS, *BASELINES))
  with user_errors():
    directory = checkpoint.checkpoint_directory(pretrained)
  _require_one_checkpoint(pretrained, directory)
  config = run_dir.run_config(directory.parent.parent)
  if config.encoder.get('attention') == 'cudnn':
    config.encoder.attention = 'xla'  # The same function, for any device and for exports.
  preprocessing = preprocessing_of(config)
  fields = _fields(config, network_name, module)
  alone = None
  if fields.get('name') != METHODS_OWN:
    with user_errors('config.encoder'):
      given = fields if module is None else module
      alone = network(given, preprocessing, config.encoder.input)
  if alone is not None and tuple(taps) == (EMBEDDING,):
    # What every run has: its method is not built, and what else it stored is not looked at.
    net, chosen = alone, (EMBEDDING,)
  else:
    net = _whole(alone, config, directory, network_name, module)
    with user_errors('config.encoder'):
      valid = tuple(taps_of(net, preprocessing.example()))
    for tap in taps:
      if tap not in valid:
        raise ConfigError(_no_tap(tap, valid, network_name, directory))
    chosen = tuple(tap for tap in valid if not taps or tap in taps)
    net = truncate(net, chosen)
  if network_name in BASELINES:
    weights = net.init(jax.random.key(config.seed), preprocessing.example())
    if network_name == 'random_rescaled':
      weights = rescaled.rescaled(net, *weights, _some_images(config, preprocessing))
  else:
    weights = _stored(net, preprocessing, directory, network_name)
  encoder = Encoder(net, *weights, preprocessing, chosen[-1], pool_of(fields), fields)
  return Loaded(encoder, chosen, config, directory)


def _require_one_checkpoint(pretrained: str, directory: pathlib.Path) -> None:
  """Raises ConfigError where processes of one run find different ones, in a run that goes on say.

  Nothing is compared among processes that a program of the user's has joined: one may load alone.
  """
  if not processes.is_multiprocess():
    return
  with user_errors():
    record = integrity.read(directory)
  if others := hosts.differing(record['sha256']):
    raise ConfigError(
      f"'{pretrained}' is another checkpoint in process {', '.join(map(str, others))} than in "
      f'process 0: name one that all of them see ({directory} here).'
    )


def of_state(
  net: Net,
  state: Any,
  preprocessing: Preprocessing,
  network_name: str = 'online',
  fields: Mapping[str, Any] | None = None,
) -> Encoder:
  """The encoder of a run in training, through its method's own network.

  Args:
    net: `Method.net`.
    state: the `TrainState`, whole, on one device or replicated.
    preprocessing: see `Preprocessing`.
    network_name: 'online' or 'target'.
    fields: `config.encoder`, where the encoder is one of the configuration's.
  """
  net = truncate(net, (EMBEDDING,))
  where, where_bn = NETWORKS[network_name]
  role = net.parts[0][0]
  params, bn = ({role: trees.at(state, (*path, role))} for path in (where, where_bn))
  fields = dict(fields or {})
  return Encoder(net, params, bn, preprocessing, pool=pool_of(fields), fields=fields)


def _fields(config: Config, network_name: str, module: Any) -> dict[str, Any]:
  if network_name == 'pixels':
    return {**config.encoder, 'name': 'pixels'}
  return {} if module is not None else dict(config.encoder)


def _whole(
  alone: Net | None, config: Config, directory: pathlib.Path, network_name: str, module: Any
) -> Net:
  """The run's network with its heads, as far as this network has them."""
  if alone is not None and network_name == 'pixels':
    return alone
  net = method_network.network(config, directory.parent.parent, module) or alone
  if net is None:
    raise ConfigError(f"'{directory.parent.parent}' does not say what its network was made of.")
  if network_name in BASELINES:
    return net
  with user_errors():
    there = checkpoint.stored_names(directory, NETWORKS[network_name][0])
  parts = tuple(itertools.takewhile(lambda part: part[0] in there, net.parts))
  parts = parts or net.parts[:1]  # Without an encoder, reading it says what is missing.
  roles = {role for role, _, _ in parts}
  return stack(parts, reads={role: source for role, source in net.reads if role in roles})


def _no_tap(tap: str, valid: Sequence[str], network_name: str, directory: pathlib.Path) -> str:
  close = difflib.get_close_matches(str(tap), valid, n=1)
  hint = f"; did you mean '{close[0]}'?" if close else '.'
  return (
    f"tap='{tap}': the {network_name} network of '{directory.parent.parent}' has no such output; "
    f'taps: {", ".join(valid)}{hint}'
  )


def _stored(
  net: Net, preprocessing: Preprocessing, directory: pathlib.Path, network_name: str
) -> tuple[PyTree, PyTree]:
  """Parameters and running statistics of the network's parts, out of the checkpoint."""
  roles = tuple(role for role, _, _ in net.parts)
  params, bn = stored_parts(directory, network_name, roles)
  fresh = jax.eval_shape(lambda: net.init(jax.random.key(0), preprocessing.example()))
  with user_errors(f"config.encoder of '{directory.parent.parent}'"):
    checkpoint.require_equal_shapes((params, bn), fresh)
  return params, bn


def stored_parts(
  directory: pathlib.Path, network_name: str, roles: Sequence[str]
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
  """Parameters and running statistics of some roles of a stored network.

  Raises:
    ConfigError: the checkpoint has no such network or role, or is damaged.
  """
  where, where_bn = NETWORKS[network_name]
  try:
    with user_errors():
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
  return params, {role: found.get((*where_bn, role), {}) for role in roles}


def _some_images(config: Config, preprocessing: Preprocessing) -> jax.Array:
  """Images of the run's own set and classes, drawn with a fixed seed, normalized, not augmented."""
  with user_errors():
    source = datasets.load(
      config.data.name, 'pretrain', data_dir=config.data.dir, range_=config.data.range
    ).of_classes(config.data.classes)
  order = np.random.default_rng((0, streams.RESCALING)).permutation(source.size)[:RESCALED_ON]
  batches = pipeline.eval_batches(
    source.subset(np.sort(order)), image_size=preprocessing.image_size, batch_size=len(order)
  )
  with user_errors():
    (batch,) = batches
  return preprocessing.normalize(jnp.asarray(batch['image'][batch['valid']]))
