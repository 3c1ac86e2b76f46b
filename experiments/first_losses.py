"""The loss of every method before and after training, for docs/losses.md.

    PYTHONPATH=. python experiments/first_losses.py start --out first.json
    PYTHONPATH=. python experiments/first_losses.py table --first first.json --runs runs/family

`start` makes one step of every recipe at scale `shapes`: its loss is the one of an untrained
network, since it is computed before the parameters move. `table` joins it with finished runs of
`family.py`.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from family import METHODS

COLUMNS = ('loss', 'collapse/std', 'collapse/rank')


def start(name: str, workdir: pathlib.Path, extra: list[str]) -> dict[str, float]:
  """Metrics of the first step of one recipe, seed 0."""
  command = [
    sys.executable, '-m', 'byoljax.main', f'--config=configs/{name}.py', f'--workdir={workdir}',
    '--config.train.length=2 steps', '--config.optim.warmup=1 steps', '--config.log.every=1 steps',
    '--config.evals.final=false', '--config.evals.report=false',
    '--config.evals.knn.every=0 epochs', '--config.log.tensorboard=false', *extra,
  ]  # fmt: skip
  subprocess.run(command, check=True, capture_output=True, text=True)
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  return {key: value for key, value in json.loads(rows[0]).items() if isinstance(value, float)}


def table(first: dict[str, dict[str, float]], runs: pathlib.Path) -> str:
  """Step 1 (seed 0), step 50 and the mean of the last epoch's rows, over all seeds of `runs`."""
  lines = [
    '| method | loss at step 1 | step 50 | last epoch | `collapse/std` | `collapse/rank` |',
    '|---|---|---|---|---|---|',
  ]
  for name in METHODS:
    seeds = [_rows(path) for path in sorted(runs.glob(f'shapes-{name}-?/metrics.jsonl'))]
    early = {key: _mean([rows[:1] for rows in seeds], key) for key in COLUMNS}
    late = {key: _mean([_last_epoch(rows) for rows in seeds], key) for key in COLUMNS}
    cells = [name, _show(first[name]['loss']), _show(early['loss']), _show(late['loss'])]
    cells += [f'{_show(early[key])} → {_show(late[key])}' for key in COLUMNS[1:]]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _rows(path: pathlib.Path) -> list[dict]:
  return [row for row in map(json.loads, path.read_text().splitlines()) if 'loss' in row]


def _last_epoch(rows: list[dict]) -> list[dict]:
  return [row for row in rows if row['epoch'] > rows[-1]['epoch'] - 1]


def _mean(seeds: list[list[dict]], key: str) -> float:
  return statistics.mean(statistics.mean(row[key] for row in rows) for rows in seeds)


def _show(value: float) -> str:
  return f'{value:.3g}' if abs(value) < 100 else f'{value:.0f}'


def main() -> None:
  """Runs one of the two commands."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('command', choices=('start', 'table'))
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('first.json'))
  parser.add_argument('--first', type=pathlib.Path, default=pathlib.Path('first.json'))
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs/family'))
  options, extra = parser.parse_known_args()
  if options.command == 'table':
    print(table(json.loads(options.first.read_text()), options.runs))
    return
  found = json.loads(options.out.read_text()) if options.out.exists() else {}
  for name in METHODS:
    if name in found:
      continue
    with tempfile.TemporaryDirectory() as workdir:
      found[name] = start(name, pathlib.Path(workdir) / 'run', extra)
    options.out.write_text(json.dumps(found, indent=2) + '\n')
    print(name, found[name]['loss'], flush=True)


if __name__ == '__main__':
  main()
