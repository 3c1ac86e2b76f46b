"""Extending a run: it goes on to another length, with what its schedule is from there on.

A schedule that moves over the whole length of a run, such as a cosine, is planned anew: the step
that comes next has the rate that it has in the new plan. Only where nothing had begun to move yet,
with the schedule 'wsd' before its decay, is the extended run the one that was planned so from the
start, bit for bit. A run of that schedule keeps the checkpoint before its decay and is extended
from there.
"""

import argparse
from collections.abc import Mapping
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

from byoljax import config as config_lib
from byoljax.config import Config, ConfigError
from byoljax.length import Length
from byoljax.wording import counted
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation

if TYPE_CHECKING:
  from byoljax.train.run import Run

# What an extension may change, apart from the images.
EXTENDABLE = (
  'train.length', 'optim.schedule', 'optim.decay', 'optim.base_lr', 'optim.end_lr', 'optim.min_lr',
  'optim.decay_at', 'optim.decay_factor',
)  # fmt: skip
_EXACT = ('train.length', 'optim.decay')


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of what goes on with a run on other terms."""
  parser.add_argument(
    '--extend', action='store_true', help='continue the run in --workdir to another train.length'
  )
  parser.add_argument(
    '--new_images', action='store_true', help='... and use the images that are there now'
  )


def check_words(invocation: Invocation, workdir: pathlib.Path) -> None:
  """Raises ConfigError where the words do not fit what is there."""
  if invocation.new_images and not invocation.extend:
    raise ConfigError('--new_images belongs to --extend: a run that is resumed keeps its images.')
  if invocation.extend and not (workdir / 'config.json').is_file():
    raise ConfigError(f"'{workdir}' holds no run to extend: leave out --extend to begin one.")


def extend(
  config: Config,
  invocation: Invocation,
  run: 'Run',
  workdir: pathlib.Path,
  facts: Mapping[str, Any],
) -> list[str]:
  """Makes the directory that of the extended run, where it was asked for; what to say about it.

  Raises:
    ConfigError: the run in the directory cannot be extended so; nothing is written.
  """
  from byoljax.workdir import history

  if not invocation.extend:
    return []
  planned = plan(workdir, config, run, facts, new_images=invocation.new_images)
  if planned is None:
    return []
  history.record(
    workdir,
    config_lib.as_data(config),
    step=planned.step,
    facts=planned.facts,
    fingerprint=run.source.fingerprint,
  )
  return planned.lines


class Extension(NamedTuple):
  """What a run will be once it is extended.

  Attributes:
    step: that it goes on from.
    facts: of the run that change, see `encoders.method_network`.
    lines: what to say about it.
  """

  step: int
  facts: dict[str, Any]
  lines: list[str]


class _Plan(NamedTuple):
  """A configuration with its length."""

  config: Config
  length: Length


def plan(
  workdir: pathlib.Path,
  config: Config,
  run: 'Run',
  facts: Mapping[str, Any],
  *,
  new_images: bool = False,
) -> Extension | None:
  """Plans an extension and writes nothing; None where the directory holds this run as it is.

  Args:
    workdir: of the run.
    config: what it is to be from now on.
    run: made from it.
    facts: of it.
    new_images: whether the images may be others than at the start.

  Raises:
    ConfigError: the run in the directory cannot be extended so.
  """
  from byoljax.workdir import history

  old = _Plan(run_dir.run_config(workdir), _old_length(workdir))
  changed = config_lib.differences(old.config, config)
  images = run_dir.data_fingerprint(workdir) != run.source.fingerprint
  if not changed and not images:
    return None
  _check_fields(workdir, changed, images)
  before = run_dir.run_facts(workdir)['num_examples']
  if images and not new_images:
    raise ConfigError(
      f'the images of {run.source.name} have changed since the run was started ({before:,} then, '
      f'{run.source.size:,} now): add --new_images to go on with those that are there now.'
    )
  new = _Plan(config, run.length)
  step, back = _start(workdir, old, new)
  _check_state(workdir, run, step)
  lines = [_headline(workdir, old, new, step), *(f'  {line}' for line in changed)]
  if back:
    lines.append(
      f"Back to step {step:,}, before the decay; later checkpoints move to '{history.EARLIER}'."
    )
  if images:
    lines.append(_images(new, step, before, run.source.size))
  lines += [_rates(old, new, step), _comparison(old, new, step, changed, images)]
  told = {name: value for name, value in facts.items() if name in _FACTS}
  return Extension(step, told, lines)


_FACTS = ('num_examples', 'num_classes', 'steps_per_epoch', 'total_steps')


def _old_length(workdir: pathlib.Path) -> Length:
  from byoljax.optim import recipe

  facts, config = run_dir.run_facts(workdir), run_dir.run_config(workdir)
  if 'total_steps' not in facts:
    raise ConfigError(f"'{workdir}' cannot be extended: it is no pretraining run of byoljax.")
  length = Length(config.train.batch_size, facts['steps_per_epoch'], facts['total_steps'])
  return length._replace(steady_steps=recipe.steady_steps(config.optim, length))


def _check_fields(workdir: pathlib.Path, changed: list[str], images: bool) -> None:
  """Raises where more than the length, the schedule and the images is another."""
  from byoljax.data.sources import given

  fine = tuple(f'{name}: ' for name in EXTENDABLE)
  handed = f"data.name: '{given.PREFIX}"  # Such a name says which images they are.
  others = [
    line
    for line in changed
    if not line.startswith(fine)
    and not (images and line.startswith(handed) and f"-> '{given.PREFIX}" in line)
  ]
  if others:
    raise ConfigError(
      f"'{workdir}' cannot be extended with other settings than {', '.join(EXTENDABLE)}:\n  "
      + '\n  '.join(others)
      + '\nRestore these fields, or choose another --workdir.'
    )


def _start(workdir: pathlib.Path, old: _Plan, new: _Plan) -> tuple[int, bool]:
  """The step to go on from, and whether it is one before a decay that was already under way."""
  from byoljax.workdir import checkpoint

  done = checkpoint.finished_steps(workdir)
  newest, total = max(done, default=0), new.length.total_steps
  if total <= newest:
    raise ConfigError(
      f"train.length='{new.config.train.length}' is {counted(total, 'step')}, and the run has done "
      f'{newest:,} of them: a longer one is needed to extend it.'
    )
  before = old.length.steady_steps
  back = 0 < before < newest and before in done and before <= new.length.steady_steps
  return (before if back else newest), back


def _check_state(workdir: pathlib.Path, run: 'Run', step: int) -> None:
  """Raises where the state that is there is none of the extended run's."""
  import jax

  from byoljax.workdir import checkpoint, integrity

  if not step:
    return
  try:
    record = integrity.read(workdir / 'checkpoints' / str(step))
  except integrity.DamagedError:
    return  # Resuming replaces it by the one before and says so.
  stored = integrity.shapes(record)
  wanted = checkpoint.by_name(jax.eval_shape(run.create))
  for name, leaf in wanted.items():
    if name in stored and stored[name].shape != tuple(leaf.shape):
      raise ConfigError(
        f"'{workdir}' cannot be extended so: {name} of the run is {list(stored[name].shape)} and "
        f'would have to become {list(leaf.shape)}, as where a method keeps something for every '
        f'image or class. Begin a new run, with init_from={workdir} if need be.'
      )
  if stored.keys() != wanted.keys():
    raise ConfigError(
      f"'{workdir}' cannot be extended so: the state has other parts, as where a part of the "
      f'network starts late by a share of the length. Write that duration in steps.'
    )


def _headline(workdir: pathlib.Path, old: _Plan, new: _Plan, step: int) -> str:
  now, before = counted(new.length.total_steps, 'step'), f'{old.length.total_steps:,}'
  return f"Extending the run in '{workdir}' from step {step:,}: {now} instead of {before}."


def _images(new: _Plan, step: int, before: int, now: int) -> str:
  epoch = step / new.length.steps_per_epoch
  return (
    f'{counted(now, "image")} instead of {before:,}: an epoch has '
    f'{counted(new.length.steps_per_epoch, "step")} now, and counted by that, the run goes on in '
    f'epoch {epoch:.4g}.'
  )


def _rates(old: _Plan, new: _Plan, step: int) -> str:
  """What the schedule is from here on."""
  from byoljax.optim import recipe

  rates = [
    recipe.make_recipe(each.config.optim.to_dict(), each.length).schedule for each in (old, new)
  ]
  was, now = (float(rate(step)) if rate is not None else 0.0 for rate in rates)
  optim, length = new.config.optim, new.length
  shape = {
    'cosine': f'a cosine over all {length.total_steps:,} steps',
    'constant': 'constant',
    'step': f'in steps at {tuple(optim.decay_at)} of {length.total_steps:,} steps',
    'wsd': f'constant up to step {length.steady_steps:,}, then falling until step '
    f'{length.total_steps:,}',
  }[optim.schedule]
  return (
    f'Learning rate, planned anew: {shape}. Step {step:,} has {now:.4g}; the old plan had '
    f'{was:.4g} there. What else moves over the length of a run, such as tau, follows it.'
  )


def _comparison(old: _Plan, new: _Plan, step: int, changed: list[str], images: bool) -> str:
  """Whether the run will be one that was planned so from the start, and if not, why."""
  reason, optim = '', new.config.optim
  fields = [line.partition(': ')[0] for line in changed]
  shares = [
    f"{name}='{value}'"
    for name, value in config_lib.flatten(new.config).items()
    if name.startswith(('optim.', 'method.', 'train.progressive'))
    and '%' in str(value)
    and name not in _EXACT
  ]
  moving = [
    each['schedule']
    for each in ({'schedule': optim.schedule}, *optim.groups.values())
    if each.get('schedule', 'wsd') not in ('wsd', 'constant')
  ]
  if not step:
    pass
  elif images:
    reason = f'up to step {step:,} it saw other images'
  elif set(fields) - set(_EXACT):
    reason = f'up to step {step:,} it had another {sorted(set(fields) - set(_EXACT))[0]}'
  elif optim.schedule != 'wsd' or moving:
    reason = "its schedule depends on the length from the first step on, as only 'wsd' does not"
  elif step > min(old.length.steady_steps, new.length.steady_steps):
    reason = 'a decay had begun, or would have'
  elif shares:
    reason = f'{shares[0]} was another number of steps'
  if reason:
    return f'It will differ from a run that was planned so from the start: {reason}.'
  return 'It will be the run that was planned so from the start, bit for bit.'
