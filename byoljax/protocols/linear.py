"""Linear evaluation: linear heads on a frozen encoder, the best of them tested once."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from byoljax.config import ConfigError, choose
from byoljax.data.sources.source import Source
from byoljax.devices import mapping
from byoljax.encoders.encoder import Encoder
from byoljax.evals import scores
from byoljax.methods.supervised import linear_probe
from byoljax.models import heads
from byoljax.models.layers import BN_EPSILON
from byoljax.ops import readouts
from byoljax.protocols import folds, training
from byoljax.protocols.answers import Answers, Trained
from byoljax.protocols.extraction import EvalData
from byoljax.step import TrainState
from byoljax.train.record import Logging
from byoljax.train.run import Run


@dataclasses.dataclass(frozen=True)
class LinearProtocol:
  """How linear heads are trained; `configs.base.linear_protocol` has BYOL's values.

  Attributes:
    protocol: what to call it in results.
    length: a duration.
    batch_size: global.
    base_lr: each rate trains a head of its own, side by side; per 256 examples where `lr_scaling`
      is 'linear'.
    held_out: share of the training images that chooses the rate; unused with a single one.
    name: the optimizer, a key of `optim.OPTIMIZERS`.
    nesterov: whether momentum is Nesterov's.
    lr_scaling: a key of `optim.schedules.SCALINGS`.
    schedule: a key of `optim.schedules.SCHEDULES`.
    lr_update: whether the learning rate changes every 'step' or once an 'epoch'.
    decay_at: shares of training at which 'step' decays.
    warmup: a duration.
    weight_decay: at least 0.
    exclude_bias_and_norm: whether biases are spared decay and LARS adaptation.
    kernel_init: how the heads' kernels are initialized, a key of `heads.KERNEL_INITS`.
    norm: whether features are batch-normalized, without scale and shift.
    crop_scale: smallest and largest share of the area that a crop keeps.
    seed: of the order, the crops and the held-out part.
  """

  protocol: str
  length: str
  batch_size: int
  base_lr: tuple[float, ...]
  held_out: float
  name: str
  nesterov: bool
  lr_scaling: str
  schedule: str
  lr_update: str
  decay_at: tuple[float, ...]
  warmup: str
  weight_decay: float
  exclude_bias_and_norm: bool
  kernel_init: str
  norm: bool
  crop_scale: tuple[float, float]
  seed: int

  @property
  def optimizer(self) -> dict[str, Any]:
    """Fields of `optim.recipe.make_recipe`."""
    return {name: getattr(self, name) for name in _OPTIMIZER}


_OPTIMIZER = (
  'base_lr', 'name', 'lr_scaling', 'schedule', 'lr_update', 'decay_at', 'warmup', 'weight_decay',
  'nesterov', 'exclude_bias_and_norm',
)  # fmt: skip


def linear_result(
  encoder: Encoder,
  data: EvalData,
  protocol: LinearProtocol,
  *,
  logging: Logging,
  workdir: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Trains linear heads on the frozen encoder and tests the one that is best on held-out images.

  With a single learning rate there is nothing to choose: nothing is held out.

  Args:
    encoder: see `Encoder`.
    data: the probe trains on `data.train` less the held-out part; without a test split see `folds`.
    protocol: see `LinearProtocol`.
    logging: see `train.record.Logging`.
    workdir: where the probe's own run can be resumed; None keeps it in memory.

  Returns:
    {'top1', 'top5' (from 6 classes on), 'mean_per_class', 'base_lr', 'held_out_top1', ...},
    accuracies in [0, 1].

  Raises:
    Stopped: the process was asked to stop; the probe's run is saved.
    ConfigError: a protocol that does not fit the data.
    RuntimeError: the encoder changed, which must not happen.
  """
  made = [
    _result(encoder, part, protocol, logging, home) for part, home in folds.homes(data, workdir)
  ]
  return folds.combined([each.result for each in made], data.train.labels)


def fit(
  encoder: Encoder,
  data: EvalData,
  protocol: LinearProtocol,
  *,
  logging: Logging,
  workdir: pathlib.Path | None = None,
) -> Trained:
  """`linear_result` with its classifier: the head that was tested.

  Without a test split one more is trained, on all labelled images.
  """
  return folds.fit(
    data, workdir, lambda part, home: _result(encoder, part, protocol, logging, home)
  )


def check(
  data: EvalData, protocol: LinearProtocol, logging: Logging, where: str = 'linear'
) -> None:
  """Checks a protocol against the data before anything is computed or written.

  Args:
    data: as for `linear_result`, as for `protocol` and `logging`.
    protocol: see `LinearProtocol`.
    logging: see `train.record.Logging`.
    where: the protocol's fields in the configuration, for messages.

  Raises:
    ConfigError: what `linear_result` would raise, and images that have several labels each.
  """
  folds.require_single(data.train, 'linear evaluation')
  for part in folds.by_fold(data):
    _, rest = _held_out(part, protocol)
    _set_up(rest, part, protocol, logging, where)
  choose(f'{where}.kernel_init', protocol.kernel_init, heads.KERNEL_INITS)


def _held_out(data: EvalData, protocol: LinearProtocol) -> tuple[Source | None, Source]:
  if len(protocol.base_lr) == 1:
    return None, data.train
  if not protocol.base_lr:
    raise ConfigError('base_lr=() must hold at least one learning rate for the linear heads.')
  return training.hold_out(data.train, protocol.held_out, protocol.seed)


def _set_up(
  source: Source, data: EvalData, protocol: LinearProtocol, logging: Logging, where: str
) -> training.Setup:
  return training.set_up(
    source,
    data,
    optimizer=protocol.optimizer,
    length=protocol.length,
    batch_size=protocol.batch_size,
    crop_scale=protocol.crop_scale,
    logging=logging,
    where=where,
  )


class Taps(NamedTuple):
  """Taps of a network that are probed in one pass.

  Attributes:
    names: outputs of the encoder's network; 'pixels' are the images.
    dimensions: about how many values of a map the heads of a tap read.
    pool: how maps are pooled to that, 'mean' or 'max'.
  """

  names: tuple[str, ...]
  dimensions: int = 9216
  pool: str = 'mean'


def layers_result(
  encoder: Encoder,
  data: EvalData,
  protocol: LinearProtocol,
  taps: Taps,
  *,
  logging: Logging,
  workdir: pathlib.Path | None = None,
) -> list[dict[str, Any]]:
  """Linear heads on every tap, all trained in one pass; of each tap the best rate is tested.

  Args:
    encoder: with a network that has these taps.
    data: as for `linear_result`, with a test split; as for `protocol`, `logging` and `workdir`.
    protocol: see `LinearProtocol`.
    taps: see `Taps`.
    logging: see `train.record.Logging`.
    workdir: where the probe's own run can be resumed; None keeps it in memory.

  Returns:
    For each tap {'tap', 'dimensions', 'linear_top1', 'linear_balanced', 'base_lr', 'held_out_top1'
    (with several rates)}.

  Raises:
    Stopped, ConfigError, RuntimeError: as `linear_result`.
  """
  run, state, held_out, _ = _trained(encoder, data, protocol, logging, workdir, taps)
  rates, count = tuple(protocol.base_lr), len(protocol.base_lr)
  tested = training.score(run, state, data.test, data)
  held = training.score(run, state, held_out, data) if held_out else None
  rows = []
  for number, tap in enumerate(taps.names):
    own = range(number * count, (number + 1) * count)
    best = max(own, key=lambda head: held[head]['top1']) if held else own[0]
    row = {
      'tap': tap,
      'dimensions': state.params['head'][tap]['kernel'].shape[1],
      'linear_top1': tested[best]['top1'],
      'linear_balanced': tested[best]['mean_per_class'],
      'base_lr': rates[best - own[0]],
    }
    rows.append(row | ({'held_out_top1': held[best]['top1']} if held else {}))
  return rows


def _trained(
  encoder: Encoder,
  data: EvalData,
  protocol: LinearProtocol,
  logging: Logging,
  workdir: pathlib.Path | None,
  taps: Taps | None = None,
) -> tuple[Run, TrainState, Source | None, Source]:
  """The heads' run at its end, held-out images, and those that it was trained on."""
  held_out, rest = _held_out(data, protocol)
  chosen = {}
  if taps is not None:
    chosen = {'taps': taps.names, 'dimensions': taps.dimensions, 'pool': taps.pool}

  def method(setting: Any) -> Any:
    return linear_probe.build(
      encoder.make_encoder,
      setting,
      num_heads=len(protocol.base_lr),
      kernel_init=protocol.kernel_init,
      norm=protocol.norm,
      **chosen,
    )

  run = training.classifier_run(
    rest,
    data,
    method,
    _set_up(rest, data, protocol, logging, 'linear'),
    encoder=encoder,
    seed=protocol.seed,
  )
  # A head whose learning rate is too high may diverge: the others do not notice.
  state = training.train(run, workdir, logging, must_be_finite=('loss',))
  _require_frozen(state, encoder)
  return run, state, held_out, rest


def _result(
  encoder: Encoder,
  data: EvalData,
  protocol: LinearProtocol,
  logging: Logging,
  workdir: pathlib.Path | None,
) -> Trained:
  """`fit` with a test split."""
  rates = tuple(protocol.base_lr)
  run, state, held_out, rest = _trained(encoder, data, protocol, logging, workdir)
  best, pair = 0, None
  if held_out is None:
    found: Mapping[str, Any] = {'base_lr': next(iter(rates))}
  else:
    answered = training.answers(run, state, held_out, data)
    held = [scores.of_logits(*each)['top1'] for each in answered]
    best = int(np.argmax(held))
    pair = answered[best]
    state = state.replace(params=jax.tree.map(lambda x: x[best : best + 1], state.params))
    found = {
      'base_lr': rates[best],
      'held_out_top1': held[best],
      'held_out_top1_by_lr': dict(zip(map(str, rates), held, strict=True)),
      'held_out_examples': held_out.size,
    }
  tested = training.answers(run, state, data.test, data)[0]
  result = {
    **scores.of_logits(*tested),
    **found,
    'train_examples': rest.size,
    'test_examples': data.test.size,
    'steps': run.length.total_steps,
    'batch_size': run.length.batch_size,
  }
  return Trained(result, encoder, _readout(state), (Answers(tested, pair),))


def _readout(state: TrainState) -> readouts.Linear:
  """The first head alone; normalization of its features becomes a part of it."""
  head = mapping.fetch(state.params['head'][linear_probe.FEATURES])
  kernel, bias = head['kernel'][0], head['bias'][0, 0]
  norm = mapping.fetch(state.method_state.norm).get(linear_probe.FEATURES)
  if norm:
    mean, variance = (norm['norm']['bn'][name] for name in ('mean', 'var'))
    kernel = kernel / np.sqrt(variance + BN_EPSILON)[:, None]
    bias = bias - mean @ kernel
  return readouts.Linear(kernel, bias)


def _require_frozen(state: TrainState, encoder: Encoder) -> None:
  """Compares the encoder under the probe with the one that went in, bit for bit."""
  after = mapping.fetch((state.method_state.params, state.method_state.bn))
  before = mapping.fetch((encoder.params, encoder.bn))
  same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), after, before)
  if not all(jax.tree.leaves(same)):
    raise RuntimeError('the frozen encoder changed during linear evaluation.')
