"""Short trials of recipes on the built-in shapes, scored on held-out training images.

    PYTHONPATH=. python experiments/shapes_byol/trials.py experiments/shapes_byol/trials.txt

Every line of the list is `name | recipe | epochs | field=value field=value ...`. Trials that the
list's `.jsonl` has already are not repeated. A trial trains as the recipe says, with its schedules,
and ends after so many epochs, without checkpoints. On the way the un-augmented training images are
encoded, a fifth of them as queries: k-NN (k = 200, T = 0.1), the rank of their features, and at the
end a logistic regression. The test set is not opened. CPU seconds are those of the steps after the
first, which compiles.
"""

import json
import math
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np

from byoljax import config as config_lib
from byoljax.devices import xla
from byoljax.encoders import load
from byoljax.evals import collapse, frozen, knn
from byoljax.protocols import extraction, frozen_features
from byoljax.tasks import data as data_lib
from byoljax.train import assemble, loop
from byoljax.workdir.clock import Clock

LOOKS = 2
LAMBDAS = (1.0,)


def trial(recipe: str, epochs: int, override: list[str]) -> dict[str, Any]:
  """Trains the first epochs of one recipe and measures it while it learns."""
  name, _, options = recipe.partition(':')
  given = [tuple(text.split('=', 1)) for text in override]
  config = config_lib.load(f'configs/{name}.py:{options}', given)
  run = assemble.from_config(config, data_lib.open_split(config, 'pretrain', None))
  data, why_not = data_lib.while_training(config, pathlib.Path())
  assert data is not None, why_not
  held_out = extraction.training_only(data, config.evals.knn, 0)
  total = epochs * run.length.steps_per_epoch
  looks = {total * (i + 1) // LOOKS for i in range(LOOKS)}
  start: Any = run.layout.place(run.create())
  clock = Clock(run.length.total_steps, run.length.batch_size)
  spent, began, curve, last, metrics = 0.0, 0.0, [], False, {}

  def due(done: int) -> float:
    return min((step for step in looks if step > done), default=math.inf)

  for done, state, metrics in loop.training(run, start, 0, clock, due):  # noqa: B007
    if done == 1:
      jax.block_until_ready(state)
      began = time.process_time()
    if done in looks:
      jax.block_until_ready(state)
      spent += time.process_time() - began
      last = done == total
      curve.append({'step': done} | scores(config, run, state, held_out, last))
      began = time.process_time()
    if last:
      break
  told = {key: float(value) for key, value in metrics.items() if np.ndim(value) == 0}
  return {
    'steps': total,
    'images': total * run.length.batch_size,
    'cpu_s': round(spent, 1),
    'curve': curve,
    'last': {key: told[key] for key in sorted(told) if not key.startswith('time')},
  } | {key: curve[-1][key] for key in ('knn', 'logistic', 'rank')}


def scores(config: Any, run: Any, state: Any, data: Any, logistic: bool) -> dict[str, float]:
  """Held-out k-NN, effective rank and spread of the embeddings; logistic regression if asked."""
  encoder = load.of_state(
    run.method.net, state, load.preprocessing_of(config), fields=config.encoder
  )
  ((bank, queries),) = frozen_features.splits(encoder, data)
  near = knn.knn_accuracy(
    *bank, *queries, num_classes=data.train.num_classes,
    ks=(knn.HEADLINE_K,), temperatures=(knn.HEADLINE_TEMPERATURE,),
  )  # fmt: skip
  found = {name: float(x) for name, x in collapse.collapse_metrics(queries[0], axis=None).items()}
  made = {'knn': near['top1'], 'rank': found['collapse/rank'], 'std': found['collapse/std']}
  if logistic:
    linear = frozen.logistic(bank, queries, lambdas=LAMBDAS, max_iterations=150)
    made['logistic'] = linear['top1']
  return {name: round(float(x), 4) for name, x in made.items()}


def main() -> None:
  """Runs what is missing, one trial after the other; the list may grow meanwhile."""
  xla.set_defaults()
  xla.keep_programs()
  path = pathlib.Path(sys.argv[1])
  out = path.with_suffix('.jsonl')
  while True:
    done = (
      {json.loads(line)['name'] for line in out.read_text().splitlines()} if out.exists() else ()
    )
    lines = [line for line in path.read_text().splitlines() if line.strip() and line[0] != '#']
    rows = [[part.strip() for part in line.split('|')] for line in lines]
    missing = [row for row in rows if row[0] not in done]
    if not missing:
      return
    name, recipe, epochs, fields = missing[0]
    began = time.monotonic()
    try:
      result = trial(recipe, int(epochs), fields.split())
    except Exception as error:  # noqa: BLE001 - a trial that fails must not end the others.
      result = {'error': f'{type(error).__name__}: {error}'[:500]}
    row = {'name': name, 'recipe': recipe, 'epochs': int(epochs), 'fields': fields} | result
    row['wall_s'] = round(time.monotonic() - began)
    with out.open('a') as file:
      file.write(json.dumps(row) + '\n')
    print(json.dumps(row)[:400], flush=True)


if __name__ == '__main__':
  main()
