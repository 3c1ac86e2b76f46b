"""Pretraining: trains an encoder, evaluates it, and leaves everything about it in a directory."""

from collections.abc import Mapping
import functools
import importlib.util
import logging
import pathlib
import shlex
import time
from typing import TYPE_CHECKING, Any

from byoljax.config import Config, ConfigError, user_errors
from byoljax.devices import hosts
from byoljax.tasks import data as data_lib
from byoljax.tasks import extension, run_scores
from byoljax.tasks.command import RECIPE, Command
from byoljax.wording import counted
from byoljax.workdir import activity, run_dir
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.data.sources.source import Source
  from byoljax.protocols.extraction import EvalData
  from byoljax.train.record import Cadence, Hooks
  from byoljax.train.run import Run

log = logging.getLogger('byoljax')


def run(config: Config, invocation: Invocation) -> int:
  """Trains an encoder, evaluates it, and leaves checkpoints, metrics and figures in the workdir."""
  train(config, invocation)
  return 0


def train(config: Config, invocation: Invocation, hooks: 'Hooks | None' = None) -> pathlib.Path:
  """The same for a program, which may want to hear of it; returns the workdir."""
  from byoljax.encoders import given_networks, method_network
  from byoljax.train import assemble

  workdir = pathlib.Path(invocation.workdir or run_dir.default_workdir(invocation.recipe))
  extension.check_words(invocation, workdir)
  source = data_lib.open_split(config, 'pretrain', workdir)
  given = given_networks.load(config)
  assembled = assemble.from_config(config, source, given=given)
  facts = method_network.facts_of(assembled, given)
  assembled = _warm_started(assembled, config, workdir)
  data, why_not = data_lib.while_training(config, workdir)
  _check_evaluations(config, data)
  cadence = assemble.cadence(config, assembled.length)
  with lock_workdir(workdir):
    _pretrain(config, invocation, assembled, cadence, data, why_not, workdir, facts, hooks)
  return workdir


def _check_evaluations(config: Config, data: 'EvalData | None') -> None:
  """Checks what is evaluated while and after training, before hours of it."""
  from byoljax.evals import knn
  from byoljax.protocols import linear
  from byoljax.train import assemble

  if data is None:
    return
  for name, least in (('max_bank', 0), ('max_queries', 1)):
    if config.evals.knn[name] < least:
      raise ConfigError(f'evals.knn.{name}={config.evals.knn[name]} must be at least {least}.')
  with user_errors('config.evals.knn'):
    knn.check_sweep(config.evals.knn.k, config.evals.knn.temperature)
  if config.evals.final:
    protocol = linear.LinearProtocol(**config.evals.linear.to_dict())
    linear.check(data, protocol, assemble.logging_of(config), 'evals.linear')


def _warm_started(run: 'Run', config: Config, workdir: pathlib.Path) -> 'Run':
  """The run, from the weights that `config.init_from` names; a resumed run has its own."""
  from byoljax.encoders import method_network
  from byoljax.train import warm_start
  from byoljax.workdir import checkpoint

  if not config.init_from or checkpoint.latest_finished(workdir) is not None:
    return run
  fields = dict(config.encoder)
  weights = warm_start.load(
    config.init_from,
    mean=config.data.mean,
    std=config.data.std,
    range_=config.data.range,
    fields=fields,
    heads=config.init_heads,
  )
  theirs = weights.fields.get('name') or config.encoder.name
  with user_errors(f"config.init_from='{config.init_from}'"):
    try:
      run, report = warm_start.warm_started(run, weights, heads=config.init_heads)
    except ValueError as error:
      if theirs == config.encoder.name:
        raise
      raise ValueError(
        f'the weights are those of the encoder {theirs}, and this run has {config.encoder.name}: '
        f'add --encoder.name={theirs}.'
      ) from error
  say(f'Starting from {config.init_from}:')
  differ = warm_start.differences(weights, fields, method_network.preprocessing_of(config))
  say('\n'.join([report, *differ]))
  return run


def _pretrain(
  config: Config,
  invocation: Invocation,
  run: 'Run',
  cadence: 'Cadence',
  data: 'EvalData | None',
  why_not: str,
  workdir: pathlib.Path,
  facts: Mapping[str, Any],
  hooks: 'Hooks | None',
) -> None:
  from byoljax.report import contents, preview
  from byoljax.train import assemble, loop, record
  from byoljax.workdir import steps

  source = run.source
  extended = extension.extend(config, invocation, run, workdir, facts)
  run_dir.open_workdir(workdir, config, invocation, source.name, source.fingerprint, facts)
  run_dir.log_to(workdir / 'run.log')
  say('\n'.join([_headline(config, run, workdir), *extended]))
  for note in _notes(config, run, data, why_not, evaluates=cadence.evaluate >= 0):
    say(f'Note: {note}')
  log.info('parameters\n%s', run.report)
  if hosts.is_first_process():
    preview.write_sheet(run, workdir / 'views.png', assemble.spec_names(config))
  periodic = functools.partial(run_scores.periodic, config, run, data) if data else None
  total = run.length.total_steps
  before = steps.mark(workdir, total)
  began = time.monotonic()
  state = loop.train(run, workdir, cadence, evaluate=periodic, hooks=hooks or record.Hooks())
  _say_unreadable(source)
  if before is not None and steps.mark(workdir, total) == before:
    say(f'This run is already complete ({counted(total, "step")}): nothing is trained.')
  else:
    say(f'Trained in {_minutes(time.monotonic() - began)}.')
  if data and config.evals.final:
    run_scores.print_final(config, run, data, state, workdir)
  elif not data:
    say(no_evaluation(config, source, why_not, workdir))
  _say_files(workdir, int(state.step))
  if config.evals.report:
    with activity.doing('writing the report'):
      page = contents.write(workdir)
    say(f'report      {page}')


def _notes(
  config: Config, run: 'Run', data: 'EvalData | None', why_not: str, *, evaluates: bool
) -> list[str]:
  """What is allowed and rarely wanted in this run, one sentence each."""
  from byoljax.protocols import extraction

  found = list(run.method.notes)
  if run.source.num_classes == 1:
    found.append(
      f'all images of {run.source.name} belong to one class: no probe watches the run, and k-NN '
      'and linear evaluation would be right without having learned anything.'
    )
  elif why_not:
    found.append(f'no k-NN or linear evaluation: {why_not}')
  if data and evaluates and run.source.num_classes > 1:
    bank = extraction.training_only(data, config.evals.knn, config.seed).train.size
    above = [k for k in config.evals.knn.k if k > bank]
    if above:
      found.append(
        f'evals.knn.k has {", ".join(map(str, above))}, more than the {bank:,} images of the bank '
        f'while training: all of the bank vote there.'
      )
  return found


def _headline(config: Config, run: 'Run', workdir: pathlib.Path) -> str:
  from byoljax.train import progressive

  length, short, growing = run.length, '', ''
  if run.earlier:
    stages = [(stage.until, stage.specs) for stage in run.stages]
    growing = f'\nviews of {progressive.described(stages)}'
  if length.total_steps < _LEARNS_LITTLE:
    short = _SHORT.format(counted(length.total_steps, 'step'))
  epochs = length.total_steps / length.steps_per_epoch
  dtype = '' if config.encoder.dtype == 'float32' else f' in {config.encoder.dtype}'
  return (
    f'{config.method.name}, {config.encoder.name} encoder{dtype}, '
    f'{counted(run.source.size, "image")} of {run.source.name}\n'
    f'{counted(length.total_steps, "step")} of {counted(length.batch_size, "image")}, '
    f'{epochs:.4g} epoch{"s" * (epochs != 1)} of '
    f'{counted(length.steps_per_epoch, "step")}; warm-up {counted(run.warmup_steps, "step")}; '
    f'workdir {workdir}{growing}{short}'
  )


# A run of fewer steps is a trial, and whoever has few images may not expect so few steps.
_LEARNS_LITTLE = 500
_SHORT = (
  '\nThis run is {} long: enough to see that everything works, not to learn much. A longer '
  '--train.length helps, more images help more.'
)


def _say_files(workdir: pathlib.Path, step: int) -> None:
  if not hosts.is_first_process():
    return
  from byoljax.report import curves
  from byoljax.workdir.metrics import TENSORBOARD

  figure = curves.plot_run(workdir)
  say(f'checkpoint  {workdir / "checkpoints" / str(step)}')
  board = importlib.util.find_spec('tensorboard') is not None and (workdir / TENSORBOARD).is_dir()
  hint = f'  (tensorboard --logdir {workdir})' if board else ''
  say(f'metrics     {workdir / "metrics.jsonl"}{hint}')
  say(f'figures     {figure}  {workdir / "views.png"}')


def _say_unreadable(source: 'Source') -> None:
  # Each process has met some of them; the file has those of all.
  if count := hosts.count_distinct(source.unreadable.names):
    images = counted(count, 'image')
    say(f'{images} could not be read, and others took the place: see {source.unreadable.path}.')


def no_evaluation(config: Config, source: 'Source', why_not: str, workdir: pathlib.Path) -> str:
  """Why there is no evaluation, and of a folder the command that few labels are enough for."""
  text = f'No k-NN or linear evaluation: {why_not}'
  if config.data.name != 'folder' or source.num_classes > 1:
    return text
  command = ['byoljax', 'classify', config.data.dir, '--labels=labels.csv', f'--from={workdir}']
  return f'{text} A few labels will do: {shlex.join(command)}'


def _minutes(seconds: float) -> str:
  return f'{seconds / 60:.1f} min' if seconds >= 60 else f'{seconds:.0f} s'


COMMAND = Command(
  'pretrain',
  'train an encoder without labels',
  run,
  (RECIPE,),
  task='pretrain',
  workdir='runs/<recipe>',
  add_flags=extension.add_flags,
)
