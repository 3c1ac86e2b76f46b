"""Fine-tuning: the whole network on labelled images, with settings chosen among those images."""

from collections.abc import Mapping
import dataclasses
import itertools
import json
import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np

from byoljax.config import ConfigError, choose, user_errors
from byoljax.data.sources.source import Source
from byoljax.devices import hosts
from byoljax.encoders.encoder import Encoder
from byoljax.methods.supervised import supervised
from byoljax.models import vit
from byoljax.protocols import folds, training
from byoljax.protocols.extraction import EvalData
from byoljax.train.record import Logging
from byoljax.train.run import Run
from byoljax.workdir.files import write_json
from byoljax.workdir.run_dir import say


class Choice(NamedTuple):
  """One of the settings that a sweep tries."""

  base_lr: float
  length: str
  weight_decay: float


@dataclasses.dataclass(frozen=True)
class FinetuneProtocol:
  """How a network is fine-tuned; `configs.base.finetune_protocol` has BYOL's values.

  Attributes:
    protocol: what to call it in results.
    length: a duration.
    batch_size: global; at most the number of labelled images is used.
    optim: fields as in `configs.base.optimizer`.
    head_lr: learning rate of the classifier, as a multiple of the encoder's.
    sweep: 'base_lr', 'length' and 'weight_decay', each with the values to try; an empty entry is
      the protocol's own value.
    held_out: share of the labelled images that chooses among them.
    batch_norm: 'batch', or 'frozen' for the running statistics of pretraining.
    head_layers: of the projector that stay under the classifier.
    pool: how a vision transformer's tokens become one vector, '' as in pretraining.
    drop_path: see `methods.supervised.supervised`, as for the three below.
    mixup: a of mixup's Beta(a, a).
    cutmix: a of CutMix's.
    label_smoothing: how much of the label is spread over all classes.
    crop_scale: smallest and largest share of the area that a crop keeps.
    seed: of the order, the crops and the held-out part.
  """

  protocol: str
  length: str
  batch_size: int
  optim: Mapping[str, Any]
  head_lr: float
  sweep: Mapping[str, tuple[Any, ...]]
  held_out: float
  batch_norm: str
  head_layers: int
  pool: str
  drop_path: float
  mixup: float
  cutmix: float
  label_smoothing: float
  crop_scale: tuple[float, float]
  seed: int

  @property
  def regularization(self) -> supervised.Regularization:
    """As the method takes it."""
    fields = supervised.Regularization._fields
    return supervised.Regularization(**{name: getattr(self, name) for name in fields})

  @property
  def own(self) -> Choice:
    """The protocol's own values, where nothing is chosen."""
    return Choice(self.optim['base_lr'], self.length, self.optim['weight_decay'])

  @property
  def choices(self) -> list[Choice]:
    """Every combination of the sweep."""
    return [
      Choice(*values)
      for values in itertools.product(
        *(self.sweep[name] or (value,) for name, value in self.own._asdict().items())
      )
    ]


def finetune_result(
  encoder: Encoder,
  data: EvalData,
  protocol: FinetuneProtocol,
  *,
  logging: Logging,
  head: Mapping[str, Any] | None = None,
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
    head: arguments of the projector's layers that stay, see `supervised.build`; its weights are
      those of the encoder's role 'projector', if it has one.
    workdir: where the runs can be resumed; None keeps them in memory.

  Returns:
    Scores of the test set (see `scores.of_logits`) with 'base_lr', 'length', 'weight_decay',
    'sweep' and numbers of examples.

  Raises:
    Stopped: the process was asked to stop; in a directory everything is saved.
    ConfigError: a protocol that does not fit the data.
  """
  results = []
  parts = folds.by_fold(data)
  for number, part in enumerate(parts):
    home = workdir if workdir is None or len(parts) == 1 else workdir / f'fold{number}'
    results.append(_result(encoder, part, protocol, logging, head, home))
  return folds.combined(results)


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
  choose(f'{where}.batch_norm', protocol.batch_norm, supervised.BATCH_NORMS)
  choose(f'{where}.pool', protocol.pool, ('', *vit.POOLS))
  network = encoder.make_encoder(None)
  with user_errors(where):
    protocol.regularization.check(network)
  for name in ('pool', 'layer_decay'):
    value = getattr(protocol, name, protocol.optim.get(name))
    if value not in ('', 1.0, None) and not hasattr(network, 'depth'):
      raise ConfigError(f"{where}: {name}={value} needs a vision transformer, such as 'vit_base'.")
  for part in folds.by_fold(data):
    held_out, rest, tried = _tried(part, protocol)
    for choice in tried:
      for source in (part.train,) if held_out is None else (part.train, rest):
        _set_up(source, part, protocol, choice, logging, where)


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
) -> dict[str, Any]:
  """`finetune_result` with a test split."""

  def make(labelled: Source, choice: Choice) -> Run:
    return _run(encoder, data, labelled, protocol, choice, logging, head)

  held_out, rest, tried = _tried(data, protocol)
  if held_out is None and len(protocol.choices) > 1:
    say(
      'Every class has a single labelled image, and none can be held out to choose among '
      f'{len(protocol.choices)} settings: base_lr {tried[0].base_lr:g}, {tried[0].length}.'
    )
  made: list[float] = []
  for number, choice in enumerate(tried if held_out is not None else ()):
    assert held_out is not None
    home = workdir / f'sweep{number}' if workdir else None
    score = _read_score(home)
    if score is None:
      score = _held_out_score(make(rest, choice), held_out, data, choice, logging, home)
    made.append(score)
  best = tried[int(np.argmax(made))] if made else tried[0]
  run = make(data.train, best)
  state = training.train(run, workdir, logging)
  return {
    **training.score(run, state, data.test, data)[0],
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


def _read_score(home: pathlib.Path | None) -> float | None:
  """The score of a setting that was tried before the run was stopped."""
  stored = home / 'score.json' if home else None
  if stored is None or not stored.exists():
    return None
  return json.loads(stored.read_text())['held_out']


def _held_out_score(
  run: Run,
  held_out: Source,
  data: EvalData,
  choice: Choice,
  logging: Logging,
  home: pathlib.Path | None,
) -> float:
  """Held-out score of one setting; stored, so that a stopped sweep can be resumed."""
  try:
    state = training.train(run, home, logging)
  except FloatingPointError:  # Too high a rate is a result, too.
    return 0.0
  score = next(iter(training.score(run, state, held_out, data)[0].values()))
  say(f'base_lr {choice.base_lr:g}, {choice.length}, weight decay {choice.weight_decay:g}: '
      f'{score:.1%} of the held-out labelled images')  # fmt: skip
  if home and hosts.is_first_process():
    write_json(home / 'score.json', {'held_out': score, **choice._asdict()})
    shutil.rmtree(home / 'checkpoints', ignore_errors=True)  # Only its score is wanted.
  return score


def _set_up(
  labelled: Source,
  data: EvalData,
  protocol: FinetuneProtocol,
  choice: Choice,
  logging: Logging,
  where: str,
) -> training.Setup:
  """How one setting is trained."""
  optim = {**protocol.optim, 'base_lr': choice.base_lr, 'weight_decay': choice.weight_decay}
  if protocol.head_lr != 1.0:
    own = {'base_lr': protocol.head_lr * choice.base_lr}
    optim['groups'] = {**optim.get('groups', {}), 'head': own}
  return training.set_up(
    labelled,
    data,
    optimizer=optim,
    length=choice.length,
    batch_size=protocol.batch_size,
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

  if protocol.pool:
    fields = {**encoder.fields, 'pool': protocol.pool}
    encoder = dataclasses.replace(encoder, fields=fields, pool=protocol.pool)

  def method(setting: Any) -> Any:
    return supervised.build(
      encoder.make_encoder,
      setting,
      batch_norm=protocol.batch_norm,
      head=dict(head or {}),
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
