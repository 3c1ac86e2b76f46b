"""Classifiers trained on an encoder: linear heads on a frozen one, or the whole network.

Both go through `train.training` with a method of their own. Settings (learning rates, lengths) are
chosen on training images held out from the classifier, the test set is looked at once, and the
encoder under linear heads is checked to come out bit-identical.
"""

from collections.abc import Mapping, Sequence
import contextlib
import itertools
import json
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np

from byoljax import streams
from byoljax.config import Config, ConfigError
from byoljax.data.augment import device
from byoljax.data.sources.source import Source
from byoljax.devices import hosts, mapping
from byoljax.evals import features, frozen, scores
from byoljax.method import Pretrained
from byoljax.protocols import extraction
from byoljax.protocols.extraction import Encoder, EvalData
from byoljax.step import TrainState
from byoljax.train import assemble, loop
from byoljax.workdir import checkpoint
from byoljax.workdir.clock import Clock
from byoljax.workdir.run_dir import say

PyTree = Any
# The held-out part need not grow with the data: BYOL's paper held out 10,009 ImageNet images.
MAX_HELD_OUT = 10_000


def linear_result(
  encoder: Encoder,
  data: EvalData,
  protocol: Mapping[str, Any],
  *,
  log: Mapping[str, Any],
  workdir: pathlib.Path | None = None,
) -> dict[str, Any] | None:
  """Trains linear heads on the frozen encoder and tests the one that is best on held-out images.

  With a single learning rate there is nothing to choose: nothing is held out.

  Args:
    encoder: see `Encoder`.
    data: the probe trains on `data.train` less the held-out part.
    protocol: as in `configs.base.linear_protocol`.
    log: as in `config.log`.
    workdir: where the probe's own run can be resumed; None keeps it in memory.

  Returns:
    {'top1', 'top5' (from 6 classes on), 'mean_per_class', 'base_lr', 'held_out_top1', ...},
    accuracies in [0, 1]; None when the process was asked to stop.

  Raises:
    ConfigError: a share of held-out images, or a number of them, that makes no sense.
    RuntimeError: the encoder changed, which must not happen.
  """
  rates: tuple[float, ...] = tuple(protocol['base_lr'])
  held_out, rest = None, data.train
  if len(rates) > 1:
    held_out, rest = _split(data.train, protocol['held_out'], protocol['seed'])
  method = {'name': 'linear_probe', 'num_heads': len(rates)}
  method |= {'start': protocol['start'], 'norm': protocol['norm']}
  optim = {'base_lr': rates} | {name: protocol[name] for name in _LINEAR_OPTIM}
  config = _supervised(encoder, data, protocol, method=method, optim=optim, log=log)
  run = assemble.assemble(config, rest, pretrained=_weights(encoder))
  # A head whose learning rate is too high may diverge: the others do not notice.
  state, complete = _fit(run, workdir, must_be_finite=('loss',))
  if not complete:
    return None
  _require_frozen(state, encoder)
  if held_out is None:
    found: dict[str, Any] = {'base_lr': next(iter(rates))}
  else:
    held = [of['top1'] for of in _scores(run, state, held_out, data)]
    best = int(np.argmax(held))
    state = state.replace(params=jax.tree.map(lambda x: x[best : best + 1], state.params))
    by_rate = dict(zip(map(str, rates), held, strict=True))
    found = {
      'base_lr': rates[best],
      'held_out_top1': held[best],
      'held_out_top1_by_lr': by_rate,
      'held_out_examples': held_out.size,
    }
  return {
    **_scores(run, state, data.test, data)[0],
    **found,
    'train_examples': rest.size,
    'test_examples': data.test.size,
    'steps': run.length.total_steps,
  }


_LINEAR_OPTIM = (
  'name', 'lr_scaling', 'schedule', 'granularity', 'decay_at', 'warmup', 'weight_decay', 'nesterov',
)  # fmt: skip


class Choice(NamedTuple):
  """One of the settings that a sweep tries."""

  base_lr: float
  length: str
  weight_decay: float


def choices(protocol: Mapping[str, Any]) -> list[Choice]:
  """Every combination of `protocol['sweep']`; an empty entry is the protocol's own value."""
  sweep, optim = protocol['sweep'], protocol['optim']
  return [
    Choice(*values)
    for values in itertools.product(
      sweep['base_lr'] or (optim['base_lr'],),
      sweep['length'] or (protocol['length'],),
      sweep['weight_decay'] or (optim['weight_decay'],),
    )
  ]


def finetune_result(
  encoder: Encoder,
  data: EvalData,
  protocol: Mapping[str, Any],
  *,
  log: Mapping[str, Any],
  head: Mapping[str, Any] | None = None,
  workdir: pathlib.Path | None = None,
) -> dict[str, Any] | None:
  """Trains the whole network on `data.train` and tests it at the last step.

  Where there is something to choose, every combination of the sweep is trained on the labelled
  images less a stratified part and scored on that part; the best is then trained on all of them.
  Labels that choose count as labels: there is no second, free validation set.

  Args:
    encoder: where it starts; a random one trains from scratch.
    data: `data.train` are the labelled images, all of them known.
    protocol: as in `configs.base.finetune_protocol`.
    log: as in `config.log`.
    head: arguments of the projector's layers that stay, see `supervised.build`; its weights are
      those of the encoder's role 'projector', if it has one.
    workdir: where the runs can be resumed; None keeps them in memory.

  Returns:
    Scores of the test set (see `scores.of_logits`) with 'base_lr', 'length', 'weight_decay',
    'sweep' and numbers of examples; None when the process was asked to stop.

  Raises:
    ConfigError: too few images for what is asked for.
  """
  tried = choices(protocol)
  made = []
  if len(tried) > 1:
    held_out, rest = _stratified(data.train, protocol['held_out'], protocol['seed'])
    for number, choice in enumerate(tried):
      home = workdir / f'sweep{number}' if workdir else None
      score = _scored(encoder, data, rest, held_out, protocol, choice, log, head, home)
      if score is None:
        return None
      made.append(score)
  best = tried[int(np.argmax(made))] if made else tried[0]
  run = _finetuning(encoder, data, data.train, protocol, best, log, head)
  state, complete = _fit(run, workdir)
  if not complete:
    return None
  return {
    **_scores(run, state, data.test, data)[0],
    **best._asdict(),
    'sweep': [
      {**choice._asdict(), 'held_out': score}
      for choice, score in zip(tried if made else (), made, strict=True)
    ],
    'train_examples': data.train.size,
    'test_examples': data.test.size,
    'steps': run.length.total_steps,
    'batch_size': run.length.batch_size,
  }


def _scored(
  encoder: Encoder,
  data: EvalData,
  rest: Source,
  held_out: Source,
  protocol: Mapping[str, Any],
  choice: Choice,
  log: Mapping[str, Any],
  head: Mapping[str, Any] | None,
  home: pathlib.Path | None,
) -> float | None:
  """Held-out score of one setting; stored, so that a sweep that was stopped goes on."""
  stored = home / 'score.json' if home else None
  if stored and stored.exists():
    return json.loads(stored.read_text())['held_out']
  run = _finetuning(encoder, data, rest, protocol, choice, log, head)
  try:
    state, complete = _fit(run, home)
  except FloatingPointError:  # Too high a rate is a result, too.
    return 0.0
  if not complete:
    return None
  score = next(iter(_scores(run, state, held_out, data)[0].values()))
  say(f'base_lr {choice.base_lr:g}, {choice.length}, weight decay {choice.weight_decay:g}: '
      f'{score:.1%} of the held-out labelled images')  # fmt: skip
  if stored and home and hosts.is_first_process():
    checkpoint.write_json(stored, {'held_out': score, **choice._asdict()})
    shutil.rmtree(home / 'checkpoints', ignore_errors=True)  # Only its score is wanted.
  return score


def _finetuning(
  encoder: Encoder,
  data: EvalData,
  labelled: Source,
  protocol: Mapping[str, Any],
  choice: Choice,
  log: Mapping[str, Any],
  head: Mapping[str, Any] | None,
) -> assemble.Run:
  optim = {**protocol['optim'], 'base_lr': choice.base_lr, 'weight_decay': choice.weight_decay}
  if protocol['head_lr'] != 1.0:
    own = {'base_lr': protocol['head_lr'] * choice.base_lr}
    optim['groups'] = {**optim.get('groups', {}), 'head': own}
  devices = jax.device_count()
  fitting = max(devices, min(protocol['batch_size'], labelled.size // devices * devices))
  config = _supervised(
    encoder,
    data,
    {**protocol, 'length': choice.length, 'batch_size': fitting},
    method={'name': 'supervised', 'batch_norm': protocol['batch_norm'], 'head': dict(head or {})},
    optim=optim,
    log=log,
  )
  return assemble.assemble(config, labelled, pretrained=_weights(encoder))


def _weights(encoder: Encoder) -> Pretrained:
  return Pretrained(encoder.params, encoder.bn, encoder.read)


def _split(source: Source, share: float, seed: int) -> tuple[Source, Source]:
  """(held out, rest), at random."""
  _check_share(share)
  count = min(MAX_HELD_OUT, max(1, round(share * source.size)))
  if count >= source.size:
    raise ConfigError(f'{source.name} has only {source.size} training images: too few to split.')
  order = np.random.default_rng((seed, streams.PROBE_HELD_OUT)).permutation(source.size)
  return source.subset(np.sort(order[:count])), source.subset(np.sort(order[count:]))


def _stratified(source: Source, share: float, seed: int) -> tuple[Source, Source]:
  """(held out, rest): of every class its share, at least one image of each in both."""
  _check_share(share)
  labels = source.labels
  assert labels is not None
  if labels.ndim == 2:
    return _split(source, share, seed)
  least = int(np.bincount(labels)[np.unique(labels)].min())
  if least < 2:
    raise ConfigError(
      'a class has a single labelled image: nothing can be held out to choose among several '
      'settings; give sweep.base_lr, sweep.length and sweep.weight_decay one value each.'
    )
  chosen = frozen.subset(labels, share=min(share, 0.5), seed=(seed, streams.PROBE_HELD_OUT))
  rest = np.setdiff1d(np.arange(source.size), chosen)
  return source.subset(chosen), source.subset(rest)


def _check_share(share: float) -> None:
  if not 0 < share < 1:
    raise ConfigError(f'held_out={share} must be between 0 and 1, such as 0.1.')


def _supervised(
  encoder: Encoder,
  data: EvalData,
  protocol: Mapping[str, Any],
  *,
  method: Mapping[str, Any],
  optim: Mapping[str, Any],
  log: Mapping[str, Any],
) -> Config:
  """A classifier's training run as a configuration: one view, crops and flips alone."""
  view = {
    'size': data.image_size,
    'crop_scale': tuple(protocol['crop_scale']),
    'jitter_prob': 0.0,
    'gray_prob': 0.0,
    'blur_prob': 0.0,
  }
  plain = {'end_lr': 0.0, 'momentum': 0.9, 'decay_factor': 0.1}
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
      'method': dict(method),
      'optim': plain | dict(optim),
      'probe': {'online': False},
      'log': dict(log),
      'profile': {'start': 0, 'steps': 0},
    }
  )


def _fit(
  run: assemble.Run,
  workdir: pathlib.Path | None,
  *,
  must_be_finite: Sequence[str] = ('loss', 'grad_norm'),
) -> tuple[TrainState, bool]:
  if workdir is not None:
    return loop.train(run, workdir, save_every='20 %', must_be_finite=tuple(must_be_finite))
  state = run.layout.place(run.create())
  clock = Clock(run.length.total_steps, run.length.batch_size)
  with contextlib.closing(loop.training(run, state, 0, clock)) as steps:
    for step in steps:
      state = step[1]
  return state, True


def _require_frozen(state: TrainState, encoder: Encoder) -> None:
  """Compares the encoder under the probe with the one that went in, bit for bit."""
  after = mapping.fetch((state.method_state.params, state.method_state.bn))
  before = mapping.fetch((encoder.params, encoder.bn))
  same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), after, before)
  if not all(jax.tree.leaves(same)):
    raise RuntimeError('the frozen encoder changed during linear evaluation.')


def _scores(
  run: assemble.Run, state: TrainState, source: Source, data: EvalData
) -> list[dict[str, Any]]:
  """Scores of every stacked head on un-augmented images."""
  transform = device.make_eval_transform(data.mean, data.std)
  extract = features.make_extractor(run.method.embed, transform, tap='logits')
  logits, labels = extract(state.params, state.method_state, extraction.eval_batches(source, data))
  heads = np.split(logits, logits.shape[1] // data.train.num_classes, axis=1)
  return [scores.of_logits(each, labels) for each in heads]
