"""What a run scores: k-NN and its own classifier while it trains, and the table at its end."""

import pathlib
from typing import TYPE_CHECKING, Any

from byoljax.config import Config
from byoljax.report import final_table, table
from byoljax.tasks import evaluation
from byoljax.workdir import activity, run_dir
from byoljax.workdir.run_dir import say

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder
  from byoljax.ops.readouts import Linear
  from byoljax.protocols.answers import Trained
  from byoljax.protocols.extraction import EvalData
  from byoljax.step import TrainState
  from byoljax.train.run import Run


def periodic(config: Config, run: 'Run', data: 'EvalData', state: 'TrainState') -> dict[str, float]:
  """k-NN of the encoder in training, 'knn/*', and what the method's own classifier does, 'own/*'.

  It classifies training images that are left out of the bank: the best checkpoint is chosen by
  it, and checkpoints must not be selected on the test set.
  """
  from byoljax.protocols import extraction, frozen_features, own_classifier

  encoder = _online(config, run, state)
  held_out = extraction.training_only(data, config.evals.knn, config.seed)
  result = frozen_features.knn_result(encoder, held_out, config.evals.knn)
  row = {f'knn/{name}': result[name] for name in ('top1', 'top5') if name in result}
  if run.method.classifies:
    own, held = _own_classifier(config, run, data, state)
    if held is not None:
      row['own/top1'] = own_classifier.score(*own, held)['top1']
  return row


def _own_classifier(
  config: Config, run: 'Run', data: 'EvalData', state: 'TrainState'
) -> 'tuple[tuple[Encoder, Linear], EvalData | None]':
  """What the method itself classifies with, and training images whose label it has not seen."""
  from byoljax.encoders import load
  from byoljax.protocols import own_classifier

  own = own_classifier.of_state(run.method, state, load.preprocessing_of(config), config.encoder)
  if not config.data.labels:  # None was told, but a teacher may have seen any.
    return own, None
  told = (config.data.labels, config.data.split_seed)
  return own, own_classifier.held_out(
    data, *told, config.evals.knn, config.seed, config.data.classes
  )


def _online(config: Config, run: 'Run', state: 'TrainState') -> 'Encoder':
  """The encoder in training, through its method's own network."""
  from byoljax.encoders import load

  preprocessing = load.preprocessing_of(config)
  return load.of_state(run.method.net, state, preprocessing, fields=config.encoder)


def print_final(
  config: Config, run: 'Run', data: 'EvalData', state: 'TrainState', workdir: pathlib.Path
) -> None:
  """Evaluates the encoder beside what it has to beat, prints the table and writes results.json."""
  from byoljax.report import facts as report_facts

  path = workdir / 'results.json'
  step = int(state.step)
  results = run_dir.read_result(path, step)
  if results is None:
    directory = workdir / 'checkpoints' / str(step)
    results = _final_results(config, run, data, state, directory)
    run_dir.write_result(path, results, config, directory, step=step)
  rows = final_table.rows(results)
  formats = dict.fromkeys(final_table.columns(rows), '{:.1%}')
  cells = table.format_table(rows, ['encoder', *formats], formats=formats)
  say(f'\n{cells}\n')
  sentence, _ = report_facts.verdict(workdir)
  if sentence:
    say(sentence)


def _final_results(
  config: Config, run: 'Run', data: 'EvalData', state: 'TrainState', directory: pathlib.Path
) -> dict[str, Any]:
  """k-NN and linear evaluation of the trained encoder and, unless told not to, of what it beats."""
  from byoljax.encoders import load
  from byoljax.encoders.encoder import random_encoder, untrained
  from byoljax.protocols import frozen_features, linear
  from byoljax.train import assemble

  trained = _online(config, run, state)
  encoders = {config.method.name: trained}
  if config.evals.baselines:
    pixels = dict(config.encoder) | {'name': 'pixels'}
    encoders['random initialization'] = untrained(trained, config.seed)
    encoders['raw pixels'] = random_encoder(pixels, load.preprocessing_of(config), config.seed)
  protocol, results = linear.LinearProtocol(**config.evals.linear.to_dict()), {}
  logging = assemble.logging_of(config)
  for name, encoder in encoders.items():
    say(f'evaluating {name} ...')
    with activity.doing(f'evaluating {name}'):
      if encoder is not trained:
        results[name] = {
          'knn': frozen_features.knn_result(encoder, data, config.evals.knn),
          'linear': linear.linear_result(encoder, data, protocol, logging=logging),
        }
        continue
      fitted = {
        'knn': (frozen_features.fit_knn(encoder, data, config.evals.knn), 'online'),
        'linear': (linear.fit(encoder, data, protocol, logging=logging), 'online'),
        **_own_fitted(config, run, data, state),
      }
      results[name] = {kind: each.result for kind, (each, _) in fitted.items()}
      for kind, (each, network) in fitted.items():
        home = run_dir.evals_dir(directory) / f'{kind}-{network}-{directory.name}'
        evaluation.leave(home, each, data, config, directory, network)
  return results


def _own_fitted(
  config: Config, run: 'Run', data: 'EvalData', state: 'TrainState'
) -> dict[str, tuple['Trained', str]]:
  """{'own': (the method's own classifier, its network)}, where it has one that can be tested."""
  from byoljax.protocols import own_classifier

  if not run.method.classifies:
    return {}
  own, held = _own_classifier(config, run, data, state)
  tested = own_classifier.tested(data, config.data.classes) if data.has_test else held
  if tested is None:
    return {}
  return {'own': (own_classifier.fit(*own, tested, held), run.method.classifies)}
