"""What can be run from the command line, by the name of the task in a configuration.

A task takes a configuration and says what came out of it; everything that it prints or leaves in a
directory is for a person. Results are JSON with the protocol that they came from.
"""

from collections.abc import Callable, Mapping
import functools
import json
import logging
import pathlib
import time
from typing import Any

import jax

import byoljax
from byoljax import config as config_lib
from byoljax.config import Config, ConfigError, user_errors
from byoljax.data.sources import datasets
from byoljax.data.sources.source import Source
from byoljax.devices import hosts
from byoljax.encoders import load, method_network, teachers, warm_start
from byoljax.encoders.encoder import Encoder, random_encoder
from byoljax.evals import scores
from byoljax.plan import timing
from byoljax.protocols import classify, eval_data, extraction
from byoljax.protocols.extraction import EvalData
from byoljax.report import contents, curves, preview, table
from byoljax.step import TrainState
from byoljax.tasks import embed, finetune, frozen, taps, transfer
from byoljax.train import assemble, loop
from byoljax.weights import exporting, importing
from byoljax.workdir import checkpoint, run_dir
from byoljax.workdir.run_dir import Invocation, say

log = logging.getLogger('byoljax')


def pretrain(config: Config, invocation: Invocation) -> int:
  """Trains an encoder, evaluates it, and leaves checkpoints, metrics and figures in the workdir."""
  workdir = pathlib.Path(invocation.workdir or run_dir.default_workdir(invocation.recipe))
  source = _load(config, 'pretrain', workdir)
  given = _given(config)
  run = assemble.assemble(config, source, given=given)
  facts = method_network.facts_of(run, given)
  run = _warm_started(run, config, workdir)
  data = _eval_data(config, workdir)
  with run_dir.held(workdir):
    return _pretrain(config, invocation, run, data, workdir, facts)


def _warm_started(run: assemble.Run, config: Config, workdir: pathlib.Path) -> assemble.Run:
  """The run, from the weights that `config.init_from` names; a resumed run has its own."""
  if not config.init_from or checkpoint.latest_finished(workdir) is not None:
    return run
  fields = dict(config.encoder)
  weights = warm_start.load(
    config.init_from,
    mean=config.data.mean,
    std=config.data.std,
    fields=fields,
    heads=config.init_heads,
  )
  with user_errors(f"config.init_from='{config.init_from}'"):
    run, report = warm_start.warm_started(run, weights, heads=config.init_heads)
  say(f'Starting from {config.init_from}:')
  differ = warm_start.differences(weights, fields, config.data.mean, config.data.std)
  say('\n'.join([report, *differ]))
  return run


def _given(config: Config) -> dict[str, Encoder]:
  """The trained networks that the method starts or learns from, by name."""
  if 'teacher' not in config:
    return {}
  teacher = teachers.load(config.teacher)
  teachers.require_same_normalization(teacher, config.data.mean, config.data.std)
  return {'teacher': teacher}


def _pretrain(
  config: Config,
  invocation: Invocation,
  run: assemble.Run,
  data: EvalData | None,
  workdir: pathlib.Path,
  facts: Mapping[str, Any],
) -> int:
  source = run.source
  run_dir.open_workdir(workdir, config, invocation, source, facts)
  run_dir.log_to(workdir / 'run.log')
  say(_headline(run, workdir))
  log.info('parameters\n%s', run.report)
  if hosts.is_first_process():
    preview.write_sheet(run, workdir / 'views.png')
  knn = functools.partial(_periodic_knn, run, data) if data else None
  done_before = checkpoint.latest_finished(workdir) == run.length.total_steps
  if done_before:
    say(f'This run is already complete ({run.length.total_steps:,} steps): nothing is trained.')
  began = time.monotonic()
  state, complete = loop.train(
    run,
    workdir,
    evaluate=knn,
    evaluate_every=config.evals.knn.every,
    save_every=config.checkpoint.every,
    keep=config.checkpoint.keep,
  )
  _say_unreadable(source)
  if not complete:
    say(f'Stopped at step {int(state.step)} and saved: the same command goes on from there.')
    return 0
  if not done_before:
    say(f'Trained in {_minutes(time.monotonic() - began)}.')
  if data and config.evals.final:
    _final_table(run, data, state, workdir)
  elif not data:
    say('No k-NN or linear evaluation: it needs labelled images and a test split.')
  _say_files(workdir, int(state.step))
  if config.evals.report:
    say(f'report      {contents.write(workdir)}')
  return 0


def linear(config: Config, invocation: Invocation) -> int:
  """Linear evaluation of a pretrained encoder; see `configs/linear.py`."""
  encoder, source_config, directory = load.load_encoder(
    config.pretrained, config.network, config.tap
  )
  home = eval_data.home('linear', config, directory, invocation)
  data = eval_data.data_of(config, source_config, config.linear.batch_size, home)
  with config.unlocked():
    config.pretrained = str(directory.resolve())  # The same however the user wrote it.
  with run_dir.held(home):
    run_dir.open_workdir(home, config, invocation, data.train)
    say(f'Linear evaluation of {directory} ({eval_data.which(config)}) on {data.test.name}.')
    result = classify.linear_result(encoder, data, config.linear, log=config.log, workdir=home)
  if result is None:
    say('Stopped and saved: the same command goes on from there.')
    return 0
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(f'{scores.in_words(result)} on {result["test_examples"]:,} test images ({_chosen(result)})')
  say(f'result  {home / "result.json"}')
  return 0


def _chosen(result: Mapping[str, Any]) -> str:
  rate = f'base_lr {result["base_lr"]:g}'
  if 'held_out_top1' not in result:
    return f'{rate}, the only one'
  return f'{rate}, {result["held_out_top1"]:.2%} on held-out training images'


def knn(config: Config, invocation: Invocation) -> int:
  """k-NN evaluation of a pretrained encoder; see `configs/knn.py`."""
  encoder, source_config, directory = load.load_encoder(
    config.pretrained, config.network, config.tap
  )
  home = eval_data.home('knn', config, directory, invocation)
  data = eval_data.data_of(config, source_config, config.batch_size, home)
  result = extraction.knn_result(encoder, data, config.knn)
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(f'k-NN of {directory} ({eval_data.which(config)}) on {data.test.name}')
  say(_knn_table(result))
  say(f'result  {home / "result.json"}')
  return 0


def views(config: Config, invocation: Invocation) -> int:
  """Writes a contact sheet of the augmented views that a configuration produces."""
  workdir = pathlib.Path(invocation.workdir or run_dir.default_workdir(invocation.recipe))
  run = assemble.assemble(config, _load(config, 'pretrain', workdir))
  with user_errors():
    workdir.mkdir(parents=True, exist_ok=True)
  preview.write_sheet(run, workdir / 'views.png')
  say(f'views  {workdir / "views.png"}')
  return 0


def bench(config: Config, invocation: Invocation) -> int:
  """Times input, step and training of a configuration here; see `byoljax.plan.timing`."""
  if 'method' not in config or 'bench' not in config:
    raise ConfigError(f'{invocation.recipe} trains no encoder: name a recipe that does.')
  workdir = pathlib.Path(invocation.workdir or run_dir.default_workdir(invocation.recipe))
  found = timing.measure(config, _load(config, 'pretrain', None), _given(config))
  say(timing.text(found))
  path = workdir / 'bench.json'
  if hosts.is_first_process():
    with user_errors():
      workdir.mkdir(parents=True, exist_ok=True)
    setting = {'recipe': invocation.recipe, 'config': json.loads(config_lib.to_json(config))}
    checkpoint.write_json(path, {'result': found, **setting, 'versions': checkpoint.versions()})
  say(f'result  {path}')
  return 0


TASKS: dict[str, Callable[[Config, Invocation], int]] = {
  'pretrain': pretrain,
  'linear': linear,
  'knn': knn,
  'views': views,
  'bench': bench,
  'import': importing.import_weights,
  'export': exporting.export_run,
  'embed': embed.embed,
  'finetune': finetune.finetune,
  'transfer': transfer.transfer,
  **frozen.TASKS,
  **taps.TASKS,
}


def _load(config: Config, split: str, workdir: pathlib.Path | None) -> Source:
  with user_errors():
    return datasets.load(
      config.data.name,
      split,
      data_dir=config.data.dir,
      unreadable_log=_unreadable(workdir),
      in_memory=config.data.resident != 'off',
    )


def _unreadable(workdir: pathlib.Path | None) -> pathlib.Path | None:
  return None if workdir is None else workdir / 'unreadable.txt'


def _eval_data(config: Config, workdir: pathlib.Path) -> EvalData | None:
  """Labelled training and test images, or None where the data have no labels or no test split."""
  try:
    found = [
      datasets.load(
        config.data.name,
        split,
        data_dir=config.data.dir,
        unreadable_log=_unreadable(workdir),
        in_memory=config.data.resident != 'off',
      )
      for split in ('train', 'test')
    ]
  except ValueError as error:
    log.info('no evaluation during training: %s', error)
    return None
  if min(source.num_classes for source in found) < 2:
    return None
  return EvalData(
    found[0],
    found[1],
    image_size=config.evals.image_size,
    mean=config.data.mean,
    std=config.data.std,
    batch_size=extraction.fit_to_devices(config.evals.batch_size),
    threads=config.data.threads,
    resident=config.data.resident,
  )


def _periodic_knn(run: assemble.Run, data: EvalData, state: TrainState) -> dict[str, float]:
  """k-NN of the encoder in training, under names of its own: 'knn/*'.

  It classifies training images that are left out of the bank: the best checkpoint is chosen by it,
  and choosing is not the test set's business.
  """
  config = run.config
  encoder = _online(run, state)
  result = extraction.knn_result(
    encoder, extraction.training_only(data, config.evals.knn, config.seed), config.evals.knn
  )
  return {f'knn/{name}': result[name] for name in ('top1', 'top5') if name in result}


def _online(run: assemble.Run, state: TrainState) -> Encoder:
  """The encoder in training, through its method's own network."""
  preprocessing = load.preprocessing_of(run.config)
  return load.of_state(run.method.net, state, preprocessing, fields=run.config.encoder)


def _final_table(
  run: assemble.Run, data: EvalData, state: TrainState, workdir: pathlib.Path
) -> None:
  """Evaluates the encoder beside what it has to beat, prints the table and writes results.json."""
  config = run.config
  path = workdir / 'results.json'
  step = int(state.step)
  results = run_dir.read_result(path, step)
  if results is None:
    results = _final_results(run, data, state)
    directory = workdir / 'checkpoints' / str(step)
    run_dir.write_result(path, results, config, directory, step=step)
  cells = [
    {'encoder': name, 'k-NN top-1': r['knn']['top1'], 'linear top-1': r['linear']['top1']}
    for name, r in results.items()
  ]
  columns = ['encoder', 'k-NN top-1', 'linear top-1']
  formats = dict.fromkeys(columns[1:], '{:.1%}')
  say('\n' + table.format_table(cells, columns, formats=formats) + '\n')


def _final_results(run: assemble.Run, data: EvalData, state: TrainState) -> dict[str, Any]:
  """k-NN and linear evaluation of the trained encoder and, unless told not to, of what it beats."""
  config = run.config
  encoders = {config.method.name: _online(run, state)}
  if config.evals.baselines:
    pixels = dict(config.encoder) | {'name': 'pixels'}
    for name, fields in {'random initialization': config.encoder, 'raw pixels': pixels}.items():
      encoders[name] = random_encoder(fields, load.preprocessing_of(config), config.seed)
  results = {}
  for name, encoder in encoders.items():
    say(f'evaluating {name} ...')
    results[name] = {
      'knn': extraction.knn_result(encoder, data, config.evals.knn),
      'linear': classify.linear_result(encoder, data, config.evals.linear, log=config.log),
    }
  return results


def _knn_table(result: Mapping[str, Any]) -> str:
  return table.format_table(
    result['sweep'], ['k', 'temperature', 'top1'], formats={'top1': '{:.2%}'}
  )


def _headline(run: assemble.Run, workdir: pathlib.Path) -> str:
  config, length = run.config, run.length
  warmup = length.steps('optim.warmup', config.optim.warmup)
  devices = f'{jax.device_count()} {jax.devices()[0].platform} device(s)'
  return (
    f'byoljax {byoljax.__version__}: {config.method.name}, {config.encoder.name} encoder, '
    f'{run.source.size:,} images of {run.source.name}, {devices}\n'
    f'{config.train.length} = {length.total_steps:,} steps of {length.batch_size} images, '
    f'warm-up {warmup:,} steps; workdir {workdir}'
  )


def _say_files(workdir: pathlib.Path, step: int) -> None:
  if not hosts.is_first_process():
    return
  figure = curves.plot_run(workdir)
  say(f'checkpoint  {workdir / "checkpoints" / str(step)}')
  say(f'metrics     {workdir / "metrics.jsonl"}  (tensorboard --logdir {workdir})')
  say(f'figures     {figure}  {workdir / "views.png"}')


def _say_unreadable(source: Source) -> None:
  if len(source.unreadable):
    say(
      f'{len(source.unreadable)} images could not be read and were replaced by others: '
      f'see {source.unreadable.path}.'
    )


def _minutes(seconds: float) -> str:
  return f'{seconds / 60:.1f} min' if seconds >= 60 else f'{seconds:.0f} s'
