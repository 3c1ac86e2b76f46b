"""Classifiers trained on an encoder: what linear evaluation and fine-tuning have in common.

Both are runs of their own, with one view of crops and flips, through the loop of every training.
Settings are chosen on training images held out from the classifier; the test set is looked at once.
"""

from collections.abc import Mapping, Sequence
import contextlib
import pathlib
from typing import Any

import jax
import numpy as np

from byoljax import streams
from byoljax.config import ConfigError, user_errors
from byoljax.data.augment import device
from byoljax.data.augment.views import ViewSpec
from byoljax.data.sources.source import Source
from byoljax.encoders.encoder import Encoder
from byoljax.evals import features, frozen, scores
from byoljax.length import make_length
from byoljax.optim.recipe import make_recipe
from byoljax.protocols.extraction import EvalData, eval_batches
from byoljax.step import TrainState
from byoljax.train import loop
from byoljax.train.record import Cadence, Logging
from byoljax.train.run import BuildMethod, DataOptions, Run, check_batch, make_run
from byoljax.workdir.clock import Clock

# The held-out part need not grow with the data: BYOL's paper held out 10,009 ImageNet images.
MAX_HELD_OUT = 10_000
# What protocols leave open.
_OPTIMIZER = {'end_lr': 0.0, 'momentum': 0.9, 'decay_factor': 0.1}


def classifier_run(
  source: Source,
  data: EvalData,
  method: BuildMethod,
  *,
  encoder: Encoder,
  optimizer: Mapping[str, Any],
  length: str,
  batch_size: int,
  crop_scale: Sequence[float],
  seed: int,
  logging: Logging,
) -> Run:
  """The training run of a classifier: one view, random crops and flips alone.

  Args:
    source: labelled images.
    data: how images are read, normalized and sized.
    method: builds a method with the output 'logits'; its setting is given the encoder.
    encoder: what the classifier begins with.
    optimizer: fields as in `configs.base.optimizer`.
    length: a duration.
    batch_size: global.
    crop_scale: smallest and largest share of the area that a crop keeps.
    seed: of the run.
    logging: see `Logging`.

  Raises:
    ConfigError: the protocol does not fit the data or the devices.
  """
  view = ViewSpec(
    size=data.image_size,
    crop_scale=(crop_scale[0], crop_scale[1]),
    jitter_prob=0.0,
    gray_prob=0.0,
    blur_prob=0.0,
  )
  with user_errors():
    check_batch(batch_size, 1, jax.device_count(), source)
    steps = make_length(length, batch_size=batch_size, num_examples=source.size)
    log_every = steps.steps('log.every', logging.every)
    recipe = make_recipe(_OPTIMIZER | dict(optimizer), steps)
    return make_run(
      source,
      (view,),
      method,
      recipe,
      steps,
      data=DataOptions(data.mean, data.std, data.threads, data.resident),
      seed=seed,
      log_every=log_every,
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
  """
  if workdir is not None:
    cadence = Cadence(
      save=run.length.steps('checkpoint.every', '20 %'),
      tensorboard=logging.tensorboard,
      csv=logging.csv,
    )
    return loop.train(run, workdir, cadence, must_be_finite=tuple(must_be_finite))
  state = run.layout.place(run.create())
  clock = Clock(run.length.total_steps, run.length.batch_size)
  with contextlib.closing(loop.training(run, state, 0, clock)) as steps:
    for step in steps:
      state = step[1]
  return state


def score(run: Run, state: TrainState, source: Source, data: EvalData) -> list[dict[str, Any]]:
  """Scores of every stacked head on un-augmented images."""
  transform = device.make_eval_transform(data.mean, data.std)
  extract = features.make_extractor(run.method.embed, transform, tap='logits')
  logits, labels = extract(state.params, state.method_state, eval_batches(source, data))
  heads = np.split(logits, logits.shape[1] // data.train.num_classes, axis=1)
  return [scores.of_logits(each, labels) for each in heads]


def hold_out(source: Source, share: float, seed: int) -> tuple[Source, Source]:
  """(held out, rest), at random."""
  check_share(share)
  count = min(MAX_HELD_OUT, max(1, round(share * source.size)))
  if count >= source.size:
    raise ConfigError(f'{source.name} has only {source.size} training images: too few to split.')
  order = np.random.default_rng((seed, streams.PROBE_HELD_OUT)).permutation(source.size)
  return source.subset(np.sort(order[:count])), source.subset(np.sort(order[count:]))


def hold_out_stratified(source: Source, share: float, seed: int) -> tuple[Source, Source]:
  """(held out, rest): of every class its share, at least one image of each in both."""
  check_share(share)
  labels = source.labels
  assert labels is not None
  if labels.ndim == 2:
    return hold_out(source, share, seed)
  least = int(np.bincount(labels)[np.unique(labels)].min())
  if least < 2:
    raise ConfigError(
      'a class has a single labelled image: nothing can be held out to choose among several '
      'settings; give sweep.base_lr, sweep.length and sweep.weight_decay one value each.'
    )
  chosen = frozen.subset(labels, share=min(share, 0.5), seed=(seed, streams.PROBE_HELD_OUT))
  rest = np.setdiff1d(np.arange(source.size), chosen)
  return source.subset(chosen), source.subset(rest)


def check_share(share: float) -> None:
  """Raises ConfigError unless a share of held-out images is between 0 and 1."""
  if not 0 < share < 1:
    raise ConfigError(f'held_out={share} must be between 0 and 1, such as 0.1.')
