"""Fine-tuning: the whole network on labelled images, with settings chosen among those images."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import jax

from byoljax.config import ConfigError, choose, user_errors
from byoljax.data.augment import ten_crops
from byoljax.data.sources.source import Source
from byoljax.devices import mapping
from byoljax.encoders import classifier
from byoljax.encoders.encoder import EMBEDDING, Encoder, network
from byoljax.evals import scores
from byoljax.methods import checks
from byoljax.methods.supervised import supervised
from byoljax.models import vit
from byoljax.ops import readouts
from byoljax.protocols import folds, sweep, training
from byoljax.protocols.answers import Answers, Trained
from byoljax.protocols.extraction import EvalData
from byoljax.protocols.finetune_protocol import Choice, FinetuneProtocol
from byoljax.protocols.sweep import Held
from byoljax.step import TrainState
from byoljax.train.record import Logging
from byoljax.train.run import Run
from byoljax.workdir.run_dir import say


def finetune_result(
  encoder: Encoder,
  data: EvalData,
  protocol: FinetuneProtocol,
  *,
  logging: Logging,
  workdir: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Trains the whole network on `data.train` and tests it at the last step.

  Where there is something to choose, every combination of the sweep is trained on the labelled
  images less a stratified part and scored on that part; the best is then trained on all of them.
  Labels that choose count as labels: there is no second, free validation set. Where every class has
  a single labelled image nothing can be held out: the protocol's own values are taken.

  Args:
    encoder: where it starts; a random one trains from scratch.
    data: `data.train` are the labelled images, all of them known; without a test split see `folds`.
    protocol: see `FinetuneProtocol`.
    logging: see `train.record.Logging`.
    workdir: where the runs can be resumed; None keeps them in memory.

  Returns:
    Scores of the test set (see `scores.of_logits`) with 'base_lr', 'length', 'weight_decay',
    'sweep' and numbers of examples.

  Raises:
    Stopped: the process was asked to stop; in a directory everything is saved.
    ConfigError: a protocol that does not fit the data.
  """
  made = [
    _result(encoder, part, protocol, logging, None, home)
    for part, home in folds.homes(data, workdir)
  ]
  return folds.combined([each.result for each in made], data.train.labels)


def fit(
  encoder: Encoder,
  data: EvalData,
  protocol: FinetuneProtocol,
  *,
  logging: Logging,
  head: Mapping[str, Any] | None = None,
  workdir: pathlib.Path | None = None,
) -> Trained:
  """`finetune_result` with its classifier: the network that was tested.

  Without a test split one more is trained, on all labelled images. Further arguments:

  Args:
    head: arguments of the projector's layers that stay, see `supervised.build`; its weights are
      those of the encoder's role 'projector', if it has one.
  """

  def one(part: EvalData, home: pathlib.Path | None) -> Trained:
    return _result(encoder, part, protocol, logging, head, home)

  return folds.fit(data, workdir, one)


def check(
  data: EvalData,
  protocol: FinetuneProtocol,
  logging: Logging,
  encoder: Encoder,
  where: str = 'finetune',
) -> None:
  """Checks a protocol against the data before anything is computed or written.

  Args:
    data: as for `finetune_result`, as for `protocol` and `logging`.
    protocol: see `FinetuneProtocol`.
    logging: see `train.record.Logging`.
    encoder: as for `finetune_result`.
    where: the protocol's fields in the configuration, for messages.

  Raises:
    ConfigError: what `finetune_result` would raise about it.
  """
  check_network(encoder, protocol, where)
  with user_errors(where):
    protocol.regularization.check_labels(data.train.multi_label)
  for part in folds.by_fold(data):
    held_out, rest, tried = _tried(part, protocol)
    for choice in tried:
      for source in (part.train,) if held_out is None else (part.train, rest):
        _set_up(source, part, protocol, choice, logging, where)


def check_network(encoder: Encoder, protocol: FinetuneProtocol, where: str = 'finetune') -> None:
  """Raises ConfigError unless a network can be fine-tuned like this; as `check`, without data."""
  choose(f'{where}.batch_norm', protocol.batch_norm, checks.BATCH_NORMS)
  choose(f'{where}.pool', protocol.pool, ('', *vit.POOLS))
  if not protocol.head_lr > 0:
    raise ConfigError(f"{where}.head_lr={protocol.head_lr:g} must be above 0: 1 is the encoder's.")
  if protocol.crops not in (1, ten_crops.COUNT):
    raise ConfigError(f'{where}.crops={protocol.crops} is neither 1 nor {ten_crops.COUNT}.')
  module = encoder.make_encoder(None)
  with user_errors(where):
    protocol.regularization.check(module)
    supervised.frozen_parts(encoder, module, protocol.freeze, protocol.batch_norm)
  for name, value, off in (
    ('pool', protocol.pool, ''),
    ('optim.layer_decay', protocol.optim.get('layer_decay', 1.0), 1.0),
  ):
    if value != off and not hasattr(module, 'depth'):
      raise ConfigError(f"{where}.{name}={value} needs a vision transformer, such as 'vit_base'.")


def _tried(
  data: EvalData, protocol: FinetuneProtocol
) -> tuple[Source | None, Source, list[Choice]]:
  """The part that chooses, or None, the other labelled images, and what there is to choose from."""
  if len(protocol.choices) == 1:
    return None, data.train, protocol.choices
  held_out, rest = training.hold_out_stratified(data.train, protocol.held_out, protocol.seed)
  return held_out, rest, protocol.choices if held_out is not None else [protocol.own]


def _result(
  encoder: Encoder,
  data: EvalData,
  protocol: FinetuneProtocol,
  logging: Logging,
  head: Mapping[str, Any] | None,
  workdir: pathlib.Path | None,
) -> Trained:
  """`fit` with a test split."""
  encoder = _pooled(encoder, protocol.pool)

  def make(labelled: Source, choice: Choice) -> Run:
    return _run(encoder, data, labelled, protocol, choice, logging, head)

  held_out, rest, tried = _tried(data, protocol)
  if held_out is None and len(protocol.choices) > 1:
    say(
      'Every class has a single labelled image, and none can be held out to choose among '
      f'{len(protocol.choices)} settings: base_lr {tried[0].base_lr:g}, {tried[0].length}.'
    )
  made: list[Held] = []
  if held_out is not None:

    def score(number: int, home: pathlib.Path | None) -> Held:
      run = make(rest, tried[number])
      return _held_out(run, held_out, data, tried[number], logging, home, protocol.crops)

    made = sweep.run(workdir, [choice._asdict() for choice in tried], score)
  chosen = sweep.best(made)
  best = tried[chosen]
  run = make(data.train, best)
  state = training.train(run, workdir, logging)
  tested = training.answers(run, state, data.test, data, protocol.crops)[0]
  result = {
    **scores.of_logits(*tested),
    **best._asdict(),
    'sweep': [
      {**choice._asdict(), 'held_out': each.score}
      for choice, each in zip(tried if made else (), made, strict=True)
    ],
    'train_examples': data.train.size,
    'test_examples': data.test.size,
    'steps': run.length.total_steps,
    'batch_size': run.length.batch_size,
  }
  held = made[chosen].scored if made else None
  return _trained(result, encoder, state, head, Answers(tested, held), data)


def _pooled(encoder: Encoder, pool: str) -> Encoder:
  """The encoder with its tokens pooled in another way; '' leaves it as it is."""
  if not pool:
    return encoder
  fields = {**encoder.fields, 'pool': pool}
  net = network(fields, encoder.preprocessing)
  return dataclasses.replace(encoder, net=net, fields=fields, pool=pool)


def _trained(
  result: dict[str, Any],
  encoder: Encoder,
  state: TrainState,
  head: Mapping[str, Any] | None,
  answers: Answers,
  data: EvalData,
) -> Trained:
  """The trained network, cut into what its classifier reads and the classifier."""
  if data.train.multi_label:
    return Trained(result, encoder, None, ())
  params, bn = mapping.fetch((dict(state.params), dict(state.method_state.bn)))
  own = params.pop('head')['linear1']
  bn.pop('head', None)
  tuned = dataclasses.replace(
    encoder,
    net=classifier.trunk_network(encoder, head or None),
    params=params,
    bn=bn,
    tap=classifier.TRUNK if head else EMBEDDING,
  )
  return Trained(
    result, tuned, readouts.Linear(own['kernel'], own['bias']), (answers,), head or None
  )


def _held_out(
  run: Run,
  held_out: Source,
  data: EvalData,
  choice: Choice,
  logging: Logging,
  home: pathlib.Path | None,
  crops: int,
) -> Held:
  """One setting on held-out images."""
  state = training.train(run, home, logging)
  logits, labels = training.answers(run, state, held_out, data, crops)[0]
  score = next(iter(scores.of_logits(logits, labels).values()))
  scored = (logits, labels) if labels.ndim == 1 else None
  say(f'base_lr {choice.base_lr:g}, {choice.length}, weight decay {choice.weight_decay:g}: '
      f'{score:.1%} of the held-out labelled images')  # fmt: skip
  return Held(score, scored)


def _set_up(
  labelled: Source,
  data: EvalData,
  protocol: FinetuneProtocol,
  choice: Choice,
  logging: Logging,
  where: str,
) -> training.Setup:
  """How one setting is trained."""
  batch_size = protocol.batch_size
  if protocol.regularization.mixes:
    pairs = 2 * jax.device_count()
    batch_size = min(batch_size, labelled.size // pairs * pairs)
    if batch_size < 1 or batch_size % pairs:
      raise ConfigError(
        f'{where}.batch_size={protocol.batch_size} with {labelled.size} labelled images: mixup and '
        f'CutMix mix them two by two, so that a batch must be {pairs} or a multiple of it; '
        'or set both to 0.0.'
      )
  optim = {**protocol.optim, 'base_lr': choice.base_lr, 'weight_decay': choice.weight_decay}
  if protocol.head_lr != 1.0:
    own = {'base_lr': protocol.head_lr * choice.base_lr}
    optim['groups'] = {**optim.get('groups', {}), 'head': own}
  return training.set_up(
    labelled,
    data,
    optimizer=optim,
    length=choice.length,
    batch_size=batch_size,
    crop_scale=protocol.crop_scale,
    logging=logging,
    where=where,
  )


def _run(
  encoder: Encoder,
  data: EvalData,
  labelled: Source,
  protocol: FinetuneProtocol,
  choice: Choice,
  logging: Logging,
  head: Mapping[str, Any] | None,
) -> Run:
  """The training of one setting."""

  def method(setting: Any) -> Any:
    return supervised.build(
      encoder.make_encoder,
      setting,
      batch_norm=protocol.batch_norm,
      head=dict(head or {}),
      freeze=protocol.freeze,
      **protocol.regularization._asdict(),
    )

  return training.classifier_run(
    labelled,
    data,
    method,
    _set_up(labelled, data, protocol, choice, logging, 'finetune'),
    encoder=encoder,
    seed=protocol.seed,
  )
