"""Evaluations of a frozen encoder on clean images: where it comes from, its features, k-NN.

An evaluation sees an encoder and two labelled sets, never the method that trained it. The encoder
of any run is found by its name in the checkpoint alone; the same functions serve a randomly
initialised encoder and raw pixels, which is what a result has to be compared with. Classifiers that
are trained on an encoder are in `byoljax.classify`.
"""

from collections.abc import Mapping
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from byoljax import checkpoint, workdirs
from byoljax.config import Config, ConfigError, choose, user_errors
from byoljax.data import device, pipeline
from byoljax.data.source import Source
from byoljax.evals import features, knn
from byoljax.models import make_encoder
from byoljax.models.net import Net, stack

PyTree = Any

# Where a network's encoder lies in a checkpoint's state: parameters, running statistics.
NETWORKS = {
  'online': (('params', 'encoder'), ('method_state', 'bn', 'encoder')),
  'target': (
    ('method_state', 'target_params', 'encoder'),
    ('method_state', 'target_bn', 'encoder'),
  ),
}


# What a result has to be compared with; nothing is read from the checkpoint.
BASELINES = ('random', 'pixels')


class Encoder(NamedTuple):
  """An encoder with its weights.

  Attributes:
    fields: its configuration, as in `config.encoder`.
    net: the network, with the one role 'encoder'.
    params: {'encoder': parameters}.
    bn: {'encoder': running statistics}.
  """

  fields: Mapping[str, Any]
  net: Net
  params: PyTree
  bn: PyTree


class EvalData(NamedTuple):
  """What an encoder is evaluated on.

  Attributes:
    train: labelled training images.
    test: labelled test images.
    image_size: side of the square that the encoder sees.
    mean: per channel, of images in [0, 1].
    std: per channel.
    batch_size: global batch for features; it does not change results.
    threads: input threads, 0 for as many as there are cores.
  """

  train: Source
  test: Source
  image_size: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  batch_size: int
  threads: int = 0


def network(fields: Mapping[str, Any]) -> Net:
  """The encoder as a network of one part.

  Raises:
    ConfigError: an unknown encoder or option.
  """
  with user_errors('config.encoder'):
    return _network(tuple(sorted(fields.items())))


@functools.cache
def _network(fields: tuple[tuple[str, Any], ...]) -> Net:
  return stack((('encoder', 'embedding', make_encoder(**dict(fields))),))


def random_encoder(fields: Mapping[str, Any], image_size: int, seed: int) -> Encoder:
  """An encoder as it is before any training."""
  net = network(fields)
  image = jax.ShapeDtypeStruct((2, image_size, image_size, 3), np.float32)
  return Encoder(fields, net, *net.init(jax.random.key(seed), image))


def load_encoder(pretrained: str, network_name: str) -> tuple[Encoder, Config, pathlib.Path]:
  """Reads only the encoder out of a run's checkpoint.

  Args:
    pretrained: a run's workdir, or one of its checkpoints/<step>.
    network_name: 'online' or 'target'; or a baseline: 'random', the same encoder as it was
      before training, or 'pixels'.

  Returns:
    The encoder, the run's configuration and the checkpoint's directory.

  Raises:
    ConfigError: nothing to load there, or weights that do not fit the configuration.
  """
  if not pretrained:
    raise ConfigError("config.pretrained is empty: name a run's workdir, such as runs/byol.")
  choose('network', network_name, (*NETWORKS, *BASELINES))
  with user_errors('config.pretrained'):
    directory = checkpoint.checkpoint_directory(pretrained)
  config = workdirs.run_config(directory.parent.parent)
  if network_name in BASELINES:
    pixels = {'name': 'pixels'} if network_name == 'pixels' else {}
    fields = dict(config.encoder) | pixels
    return random_encoder(fields, config.evals.image_size, config.seed), config, directory
  prefixes = NETWORKS[network_name]
  try:
    found = checkpoint.restore_subtrees(directory, prefixes)
  except KeyError as error:
    raise ConfigError(
      f"config.network='{network_name}': '{directory}' holds no {error.args[0]}; "
      f'networks: {", ".join(NETWORKS)}.'
    ) from error
  fresh = random_encoder(config.encoder, config.evals.image_size, 0)
  params, bn = ({'encoder': found[prefix]} for prefix in prefixes)
  with user_errors(f"config.encoder of '{directory.parent.parent}'"):
    checkpoint.require_equal_shapes((params, bn), (fresh.params, fresh.bn))
  return fresh._replace(params=params, bn=bn), config, directory


def training_only(data: EvalData, fields: Mapping[str, Any], seed: int) -> EvalData:
  """Evaluation data without the test set: training images, at random, as queries and as bank.

  Args:
    data: see `EvalData`.
    fields: 'max_bank' (0 = all the others) and 'max_queries', which takes at most a fifth of all.
    seed: chooses the images.
  """
  order = np.random.default_rng((seed, 1)).permutation(data.train.size)
  queries = max(1, min(fields['max_queries'], data.train.size // 5))
  bank = order[queries:][: fields['max_bank'] or None]
  return data._replace(
    test=data.train.subset(np.sort(order[:queries])), train=data.train.subset(np.sort(bank))
  )


def knn_result(encoder: Encoder, data: EvalData, fields: Mapping[str, Any]) -> dict[str, Any]:
  """k-NN of an encoder: {'top1': headline, 'sweep': every k and temperature, ...}.

  Args:
    encoder: see `Encoder`.
    data: bank and queries.
    fields: 'k' and 'temperature' (tuples).
  """
  extract = extractor(encoder.net, tuple(data.mean), tuple(data.std))
  bank = data.train
  if bank.multi_label:
    raise ConfigError(f'{bank.name} has several labels per image: k-NN needs one.')
  bank_features, bank_labels = extract(encoder.params, encoder.bn, eval_batches(bank, data))
  features_, labels = extract(encoder.params, encoder.bn, eval_batches(data.test, data))
  with user_errors('k-NN'):
    return knn.knn_accuracy(
      bank_features,
      bank_labels,
      features_,
      labels,
      num_classes=data.train.num_classes,
      ks=fields['k'],
      temperatures=fields['temperature'],
    ) | {'bank_size': bank.size, 'queries': data.test.size}


def fit_to_devices(batch_size: int) -> int:
  """The nearest batch size that all devices can share; evaluation does not depend on it."""
  devices = jax.device_count()
  return max(1, round(batch_size / devices)) * devices


def eval_batches(source: Source, data: EvalData) -> Any:
  """Every example once, un-augmented, over all processes."""
  return pipeline.eval_batches(
    source,
    image_size=data.image_size,
    batch_size=data.batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


@functools.cache
def extractor(net: Net, mean: tuple[float, ...], std: tuple[float, ...]) -> features.Extract:
  """One for every network, so that periodic evaluations compile only once."""

  def embed(params: PyTree, bn: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    return net.apply(params, bn, images, train=False)[0]

  return features.make_extractor(embed, device.make_eval_transform(mean, std))
