"""Tasks on the frozen features of a run: logistic regression, few labels, anomalies.

Each reads the encoder of a checkpoint, takes the features of both splits once, and writes one
result.json with its protocol beside the run.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from byoljax.config import Config, user_errors
from byoljax.encoders import load
from byoljax.encoders.encoder import Encoder
from byoljax.evals import frozen, scores
from byoljax.protocols import eval_data, extraction
from byoljax.protocols.extraction import EvalData
from byoljax.report import table
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation, say

Split = tuple[np.ndarray, np.ndarray]


def _task(name: str, compute: Callable[[Config, Split, Split], tuple[dict[str, Any], str]]) -> Any:
  """A task: `compute` gives the result and what to print of it."""

  def run(config: Config, invocation: Invocation) -> int:
    encoder, source, directory = load.load_encoder(config.pretrained, config.network, config.tap)
    home = eval_data.home(name, config, directory, invocation)
    data = eval_data.data_of(config, source, config.batch_size, home)
    say(f'{name} of {directory} ({eval_data.which(config)}) on {data.test.name}')
    splits = features(encoder, data)
    with user_errors(name):
      result, text = compute(config, *splits)
    run_dir.write_result(home / 'result.json', result, config, directory)
    say(text)
    say(f'result  {home / "result.json"}')
    return 0

  return run


def features(encoder: Encoder, data: EvalData) -> tuple[Split, Split]:
  """Features and labels of both splits; images without a label are left out."""
  made = []
  for source in (data.train, data.test):
    found, labels = extraction.extract(encoder, source, data)
    known = labels >= 0 if labels.ndim == 1 else np.full(len(labels), True)
    made.append((found[known], labels[known]))
  return made[0], made[1]


def _logistic(config: Config, train: Split, test: Split) -> tuple[dict[str, Any], str]:
  fields = config.logistic
  result = frozen.logistic(
    train,
    test,
    lambdas=fields.lambdas or frozen.LAMBDAS,
    held_out=fields.held_out,
    seed=fields.seed,
    max_iterations=fields.max_iterations,
  )
  text = (
    f'{scores.in_words(result)} on {result["test_examples"]:,} test images '
    f'(lambda {result["lambda"]:.3g}, {result["held_out"]:.2%} on held-out training images)'
  )
  edge = '\nThe best lambda is at the end of the range: widen logistic.lambdas.'
  return result, text + (edge if result['at_the_edge'] else '')


def _few_labels(config: Config, train: Split, test: Split) -> tuple[dict[str, Any], str]:
  fields = config.few_labels
  rows = frozen.few_labels(
    train,
    test,
    shots=fields.shots,
    shares=fields.shares,
    draws=fields.draws,
    value=fields.regularization,
    seed=fields.seed,
  )
  columns = ['labels', 'examples', 'top1', 'top1_sd']
  formats = {'top1': '{:.1%}', 'top1_sd': '{:.1%}'}
  return {'rows': rows}, table.format_table(rows, columns, formats=formats)


def _anomaly(config: Config, train: Split, test: Split) -> tuple[dict[str, Any], str]:
  result = frozen.anomaly(train, test, neighbors=config.anomaly.neighbors)
  rows = [{'normal class': str(c), 'AUROC': value} for c, value in result['by_class'].items()]
  shown = table.format_table(rows, ['normal class', 'AUROC'], formats={'AUROC': '{:.3f}'})
  return result, f'{shown}\nmean AUROC {result["auroc"]:.3f} (chance: 0.5)'


TASKS = {
  'logistic': _task('logistic', _logistic),
  'few_labels': _task('few_labels', _few_labels),
  'anomaly': _task('anomaly', _anomaly),
}
