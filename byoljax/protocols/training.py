"""Classifiers trained on an encoder: what linear evaluation and fine-tuning have in common.

Both are runs of their own, with one view of crops and flips, through the loop of every training.
Settings are chosen on training images held out from the classifier; the test set is looked at once.
"""

from collections.abc import Mapping, Sequence
import contextlib
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from byoljax import streams
from byoljax.config import ConfigError, user_errors
from byoljax.data.augment import device, ten_crops
from byoljax.data.augment.view_checks import WHOLE
from byoljax.data.augment.views import ViewSpec
from byoljax.data.sources.source import Source
from byoljax.devices import mapping
from byoljax.encoders.encoder import Encoder
from byoljax.evals import features, frozen, scores
from byoljax.length import Length, is_due, make_length, next_due
from byoljax.optim.recipe import Recipe, make_recipe
from byoljax.protocols.extraction import EvalData, eval_batches
from byoljax.step import Metrics, TrainState
from byoljax.suggest import from_fields
from byoljax.train import loop
from byoljax.train.checks import check_batch
from byoljax.train.record import Cadence, Logging
from byoljax.train.run import BuildMethod, DataOptions, Run, make_run
from byoljax.wording import counted
from byoljax.workdir.clock import Clock

# The held-out part need not grow with the data: BYOL's paper held out 10,009 ImageNet images.
MAX_HELD_OUT = 10_000
# What protocols leave open.
_OPTIMIZER = {'end_lr': 0.0, 'momentum': 0.9, 'decay_factor': 0.1}


class Setup(NamedTuple):
  """What a classifier is trained by, read from its protocol and checked.

  Attributes:
    length: of the run, with the batch that fits the images.
    log_every: steps between two rows of metrics.
    optimizer: see `optim.recipe`.
    view: the augmentation: random crops and flips alone.
  """

  length: Length
  log_every: int
  optimizer: Recipe
  view: ViewSpec


def set_up(
  source: Source,
  data: EvalData,
  *,
  optimizer: Mapping[str, Any],
  length: str,
  batch_size: int,
  crop_scale: Sequence[float],
  logging: Logging,
  where: str,
  zoom: Sequence[float] | None = None,
) -> Setup:
  """Checks what a classifier is trained by; a batch larger than the data becomes all of them.

  Args:
    source: labelled images.
    data: how images are sized.
    optimizer: fields as in `configs.base.optimizer`.
    length: a duration.
    batch_size: global.
    crop_scale: smallest and largest share of the area that a crop keeps; series are kept whole.
    logging: see `Logging`.
    where: the protocol's fields in the configuration, for messages: 'linear', 'finetune'.
    zoom: in place of `crop_scale`, see `ViewSpec`.

  Raises:
    ConfigError: the protocol does not fit the data or the devices.
  """
  devices = jax.device_count()
  if source.size < devices:
    raise ConfigError(
      f'{source.name} has {counted(source.size, "labelled image")} to train on, fewer than the '
      f'{devices} devices that share a batch: show JAX fewer of them.'
    )
  if batch_size > source.size:
    batch_size = source.size // devices * devices
  with user_errors():
    check_batch(batch_size, 1, devices, source, f'{where}.batch_size')
    steps = make_length(
      length, batch_size=batch_size, num_examples=source.size, field=f'{where}.length'
    )
    log_every = steps.every('log.every', logging.every)
    recipe = make_recipe(_OPTIMIZER | dict(optimizer), steps, where=where)
  with user_errors(where):
    crops = {'crop_scale': tuple(crop_scale), 'zoom': zoom and tuple(zoom)}
    off = {f'{name}_prob': 0.0 for name in ('jitter', 'gray', 'blur')}
    changes = WHOLE if source.series else off | crops
    view = from_fields(ViewSpec, 'view field', {'size': data.image_size, **changes})
  return Setup(steps, log_every, recipe, view)


def classifier_run(
  source: Source,
  data: EvalData,
  method: BuildMethod,
  chosen: Setup,
  *,
  encoder: Encoder,
  seed: int,
  fields: Sequence[str] = (),
) -> Run:
  """The training run of a classifier: one view.

  Args:
    source: labelled images.
    data: how images are read and normalized.
    method: builds a method with the output 'logits'; its setting is given the encoder.
    chosen: see `set_up`.
    encoder: what the classifier begins with.
    seed: of the run.
    fields: names of further fields that the method is given.

  Raises:
    ConfigError: the protocol does not fit the data or the devices.
  """
  with user_errors():
    return make_run(
      source,
      (chosen.view,),
      method,
      chosen.optimizer,
      chosen.length,
      data=DataOptions(data.mean, data.std, data.threads, data.resident, tuple(fields)),
      seed=seed,
      log_every=chosen.log_every,
      dtype=encoder.fields.get('dtype', 'float32'),
      given={'encoder': encoder},
    )


def train(
  run: Run,
  workdir: pathlib.Path | None,
  logging: Logging,
  *,
  must_be_finite: Sequence[str] = ('loss', 'grad_norm'),
) -> TrainState:
  """Trains a classifier, in a directory where it can be resumed or, without one, in memory.

  Raises:
    Stopped: the process was asked to stop; what is in a directory is saved.
    FloatingPointError: one of the metrics `must_be_finite` is not.
  """
  if workdir is not None:
    cadence = Cadence(
      save=run.length.steps('checkpoint.every', '20 %'),
      tensorboard=logging.tensorboard,
      csv=logging.csv,
    )
    return loop.train(run, workdir, cadence, must_be_finite=tuple(must_be_finite))
  state, total = run.layout.place(run.create()), run.length.total_steps
  clock = Clock(total, run.length.batch_size)

  def due(done: int) -> float:
    return next_due(done, run.log_every)

  with contextlib.closing(loop.training(run, state, 0, clock, due)) as steps:
    for done, trained, values in steps:
      state = trained
      if done == total or is_due(done, run.log_every):
        _require_finite(done, values, must_be_finite)
  return state


def _require_finite(done: int, values: Metrics, names: Sequence[str]) -> None:
  for name, value in mapping.fetch({name: values[name] for name in names}).items():
    if not np.isfinite(value):
      raise FloatingPointError(
        f'{name} had become {value} after step {done}. A lower base_lr or a longer warmup may help.'
      )


def score(run: Run, state: TrainState, source: Source, data: EvalData) -> list[dict[str, Any]]:
  """Scores of every stacked head on un-augmented images."""
  return [scores.of_logits(*each) for each in answers(run, state, source, data)]


def answers(
  run: Run, state: TrainState, source: Source, data: EvalData, crops: int = 1
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Logits [n, C] of every stacked head on un-augmented images, with their labels.

  Those of ten crops (`ten_crops`) are averaged.
  """
  transform = device.make_eval_transform(data.mean, data.std)
  embed, size = run.method.embed, data.image_size

  def of_ten(params: Any, state: Any, images: jax.Array) -> dict[str, jax.Array]:
    def read(crop: jax.Array) -> jax.Array:
      return embed(params, state, crop)['logits']

    return {'logits': ten_crops.averaged(read, images, size)}

  if crops > 1:
    data = data._replace(image_size=ten_crops.larger(size))
  extract = features.make_extractor(of_ten if crops > 1 else embed, transform, tap='logits')
  logits, labels = extract(state.params, state.method_state, eval_batches(source, data))
  heads = np.split(logits, logits.shape[1] // data.train.num_classes, axis=1)
  return [(each, labels) for each in heads]


def hold_out(source: Source, share: float, seed: int) -> tuple[Source, Source]:
  """(held out, rest), at random."""
  check_share(share)
  count = min(MAX_HELD_OUT, max(1, round(share * source.size)))
  if count >= source.size:
    images = counted(source.size, 'training image')
    raise ConfigError(f'{source.name} has only {images}: too few to split.')
  order = np.random.default_rng((seed, streams.PROBE_HELD_OUT)).permutation(source.size)
  return source.subset(np.sort(order[:count])), source.subset(np.sort(order[count:]))


def hold_out_stratified(source: Source, share: float, seed: int) -> tuple[Source | None, Source]:
  """(held out, rest): of every class its share; a single image of a class stays in the rest.

  None, and everything, where every class has a single image.
  """
  check_share(share)
  labels = source.labels
  assert labels is not None
  if labels.ndim == 2:
    return hold_out(source, share, seed)
  chosen = stratified(labels, share, seed)
  if not len(chosen):
    return None, source
  rest = np.setdiff1d(np.arange(source.size), chosen)
  return source.subset(chosen), source.subset(rest)


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
  """Positions of a held-out share of every class, ascending; a single image is never held out."""
  seeds = (seed, streams.PROBE_HELD_OUT)
  return frozen.subset(labels, share=min(share, 0.5), seed=seeds, spare=1)


def check_share(share: float) -> None:
  """Raises ConfigError unless a share of held-out images is between 0 and 1."""
  if not 0 < share < 1:
    raise ConfigError(f'held_out={share} must be between 0 and 1, such as 0.1.')
