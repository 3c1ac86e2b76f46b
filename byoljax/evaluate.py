"""Evaluations of a frozen encoder: k-NN and a linear classifier, on clean images.

An evaluation sees an encoder and two labelled sets, never the method that trained it. The encoder
of any run is found by its name in the checkpoint alone; the same functions serve a randomly
initialised encoder and raw pixels, which is what a result has to be compared with.

Linear evaluation runs `train.training` with the probe as its method. The learning rate is chosen on
training images held out from the probe, the test set is looked at once, and the encoder is checked
to come out bit-identical.
"""

from collections.abc import Mapping
import contextlib
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from byoljax import assemble, checkpoint, parallel, train, workdirs
from byoljax.clock import Clock
from byoljax.config import Config, ConfigError, choose, user_errors
from byoljax.data import device, pipeline
from byoljax.data.source import Source
from byoljax.evals import features, knn
from byoljax.losses import classification
from byoljax.models import make_encoder
from byoljax.models.net import Net, stack
from byoljax.step import TrainState

PyTree = Any
# The held-out part need not grow with the data: BYOL's paper held out 10,009 ImageNet images.
MAX_HELD_OUT = 10_000

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
    resident: whether a probe's images live on the accelerator: 'auto', 'on' or 'off'.
  """

  train: Source
  test: Source
  image_size: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  batch_size: int
  threads: int = 0
  resident: str = 'auto'


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


def linear_result(
  encoder: Encoder,
  data: EvalData,
  protocol: Mapping[str, Any],
  *,
  log: Mapping[str, Any],
  workdir: pathlib.Path | None = None,
) -> dict[str, Any] | None:
  """Trains linear heads on the frozen encoder and tests the one that is best on held-out images.

  Args:
    encoder: see `Encoder`.
    data: the probe trains on `data.train` less the held-out part.
    protocol: as in `configs.base.linear_protocol`.
    log: as in `config.log`.
    workdir: where the probe's own run can be resumed; None keeps it in memory.

  Returns:
    {'top1', 'top5' (from 6 classes on), 'base_lr', 'held_out_top1', ...}, accuracies in [0, 1];
    None when the process was asked to stop.

  Raises:
    RuntimeError: the encoder changed, which must not happen.
  """
  rates = tuple(protocol['base_lr'])
  held_out, rest = _split(data.train, protocol['held_out'], protocol['seed'])
  config = _probe_config(encoder, data, protocol, rates, log)
  run = assemble.assemble(config, rest, pretrained=(encoder.params, encoder.bn))
  state, complete = _fit(run, workdir)
  if not complete:
    return None
  _require_frozen(state, encoder)
  scores = _accuracies(run, state, held_out, data, top=1)
  best = int(np.argmax(scores))
  one_head = jax.tree.map(lambda x: x[best : best + 1], state.params)
  chosen = state.replace(params=one_head)
  result = {'top1': _accuracies(run, chosen, data.test, data, top=1)[0]}
  if data.train.num_classes > 5:
    result['top5'] = _accuracies(run, chosen, data.test, data, top=5)[0]
  return result | {
    'base_lr': rates[best],
    'held_out_top1': scores[best],
    'held_out_top1_by_lr': dict(zip(map(str, rates), scores, strict=True)),
    'train_examples': rest.size,
    'held_out_examples': held_out.size,
    'test_examples': data.test.size,
    'steps': run.length.total_steps,
  }


def _split(source: Source, share: float, seed: int) -> tuple[Source, Source]:
  """(held out, rest), at random."""
  if not 0 < share < 1:
    raise ConfigError(f'linear.held_out={share} must be between 0 and 1, such as 0.1.')
  count = min(MAX_HELD_OUT, max(1, round(share * source.size)))
  if count >= source.size:
    raise ConfigError(f'{source.name} has only {source.size} training images: too few to split.')
  order = np.random.default_rng((seed, 2)).permutation(source.size)
  return source.subset(np.sort(order[:count])), source.subset(np.sort(order[count:]))


def _probe_config(
  encoder: Encoder,
  data: EvalData,
  protocol: Mapping[str, Any],
  rates: tuple[float, ...],
  log: Mapping[str, Any],
) -> Config:
  """The probe's training run as a configuration: crops and flips, SGD with Nesterov momentum."""
  view = {
    'size': data.image_size,
    'crop_scale': tuple(protocol['crop_scale']),
    'jitter_prob': 0.0,
    'gray_prob': 0.0,
    'blur_prob': 0.0,
  }
  return ConfigDict(
    {
      'seed': protocol['seed'],
      'train': {
        'length': protocol['length'],
        'batch_size': protocol['batch_size'],
        'accumulate': 1,
      },
      'data': {
        'mean': data.mean,
        'std': data.std,
        'threads': data.threads,
        'resident': data.resident,
      },
      'augment': {'device': 'accelerator'},
      'views': {'view1': view},
      'encoder': dict(encoder.fields),
      'method': {'name': 'linear_probe', 'num_heads': len(rates)},
      'optim': {
        'name': 'sgd',
        'base_lr': rates,
        'warmup': '0 steps',
        'end_lr': 0.0,
        'weight_decay': 0.0,
        'momentum': 0.9,
        'nesterov': True,
      },
      'probe': {'online': False},
      'log': dict(log),
      'profile': {'start': 0, 'steps': 0},
    }
  )


def _fit(run: assemble.Run, workdir: pathlib.Path | None) -> tuple[TrainState, bool]:
  if workdir is not None:
    # A head whose learning rate is too high may diverge: the others do not notice.
    return train.train(run, workdir, save_every='20 %', must_be_finite=('loss',))
  state = parallel.replicate(run.create())
  clock = Clock(run.length.total_steps, run.length.batch_size)
  with contextlib.closing(train.training(run, state, 0, clock)) as steps:
    for step in steps:
      state = step[1]
  return state, True


def _require_frozen(state: TrainState, encoder: Encoder) -> None:
  """Compares the encoder under the probe with the one that went in, bit for bit."""
  after = parallel.fetch((state.method_state.params, state.method_state.bn))
  before = parallel.fetch((encoder.params, encoder.bn))
  same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), after, before)
  if not all(jax.tree.leaves(same)):
    raise RuntimeError('the frozen encoder changed during linear evaluation.')


def _accuracies(
  run: assemble.Run, state: TrainState, source: Source, data: EvalData, *, top: int
) -> list[float]:
  """Top-k accuracy in [0, 1] of every stacked head on un-augmented images."""
  transform = device.make_eval_transform(data.mean, data.std)
  extract = features.make_extractor(run.method.embed, transform, tap='logits')
  logits, labels = extract(state.params, state.method_state, eval_batches(source, data))
  each = np.split(logits, logits.shape[1] // data.train.num_classes, axis=1)
  return [
    float(classification.accuracy(jnp.asarray(head), jnp.asarray(labels), top)) for head in each
  ]
