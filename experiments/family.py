"""Trains every joint-embedding method at one scale, with several seeds, one run after the other.

    python experiments/family.py --scale shapes --seeds 0 1 2 --out experiments/shapes_family

Runs that are complete are not repeated, so it can be stopped and started again. The encoder, the
data, the batch size, the length and the evaluation are the scale's and the same for every method;
heads, views and what its loss needs are the method's own (configs/<method>.py). Written are
results.json, table.md and scores.png; checkpoints stay in --runs.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

from collect import processor

METHODS = (
  'byol', 'simclr', 'moco', 'moco_v3', 'simsiam', 'barlow_twins', 'vicreg', 'w_mse', 'swav', 'dino',
  'nnclr', 'triplet', 'instance_discrimination', 'interclr', 'deepcluster', 'deepcluster_v2',
)  # fmt: skip
SCORES = (('k-NN top-1', 'knn'), ('linear top-1', 'linear'))


def train(name: str, seed: int, options: argparse.Namespace) -> dict:
  """One run from its beginning or from where it stopped; its results."""
  workdir = options.runs / f'{options.scale}-{name}-{seed}'
  done = workdir / 'family.json'
  if not done.exists():
    command = [
      sys.executable, '-m', 'byoljax.main',
      f'--config=configs/{name}.py:{options.scale},{options.epochs}',
      f'--config.seed={seed}', f'--workdir={workdir}', *options.override,
    ]  # fmt: skip
    began = time.monotonic()
    print(' '.join(command[1:]), flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    minutes = (time.monotonic() - began) / 60
    stored = json.loads((workdir / 'results.json').read_text())
    last = (workdir / 'metrics.jsonl').read_text().splitlines()[-1]
    done.write_text(
      json.dumps(
        {
          'method': name,
          'seed': seed,
          'minutes': minutes,
          'training_minutes': json.loads(last)['time/elapsed_s'] / 60,
          'images_per_second': json.loads(last)['time/img_per_s_run'],
          'result': stored['result'],
          'config': stored['config'],
          'versions': stored.get('versions'),
        }
      )
    )
  return json.loads(done.read_text())


def own_and_random(run: dict) -> tuple[dict, dict]:
  """The trained encoder's results and the random one's."""
  result = run['result']
  return result[run['config']['method']['name']], result['random initialisation']


def table(runs: dict[str, list[dict]]) -> str:
  """Mean ± standard deviation over seeds, in per cent, best linear accuracy first, as Markdown."""
  lines = [
    '| method | k-NN top-1 | linear top-1 | above random: k-NN | linear | training, min | seeds |',
    '|---|---|---|---|---|---|---|',
  ]
  ranked = sorted(runs, key=lambda name: -_mean(runs[name], 'linear'))
  for name in ranked:
    each = runs[name]
    scores = [_spread([100 * own_and_random(run)[0][key]['top1'] for run in each])
              for _, key in SCORES]  # fmt: skip
    gains = [
      _spread([100 * (own[key]['top1'] - random[key]['top1'])
               for own, random in map(own_and_random, each)])
      for _, key in SCORES
    ]  # fmt: skip
    minutes = statistics.median(run['training_minutes'] for run in each)
    cells = [name, *scores, *gains, f'{minutes:.1f}', str(len(each))]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def _mean(runs: list[dict], key: str) -> float:
  return statistics.mean(100 * own_and_random(run)[0][key]['top1'] for run in runs)


def _spread(values: list[float]) -> str:
  text = f'{statistics.mean(values):.1f}'
  return text + (f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else '')


def plot(runs: dict[str, list[dict]], path: pathlib.Path) -> None:
  """One row a method, best on top: a dot for every seed, a bar for the mean, the random encoder."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  names = sorted(runs, key=lambda name: _mean(runs[name], 'linear'))
  figure = Figure(figsize=(9, 0.42 * len(names) + 1.4), layout='constrained')
  FigureCanvasAgg(figure)
  for panel, (title, key) in zip(figure.subplots(1, 2, sharey=True), SCORES, strict=True):
    for row, name in enumerate(names):
      own = [100 * own_and_random(run)[0][key]['top1'] for run in runs[name]]
      panel.barh(row, statistics.mean(own), color='#9ecae1', height=0.62)
      panel.plot(own, [row] * len(own), 'o', color='#08519c', markersize=4)
    random = [100 * own_and_random(run)[1][key]['top1'] for each in runs.values() for run in each]
    panel.axvline(statistics.mean(random), color='#636363', linestyle='--', linewidth=1)
    panel.text(
      statistics.mean(random) + 0.6, len(names) - 0.45, 'random encoder', fontsize=8,
      color='#636363', va='bottom',
    )  # fmt: skip
    panel.set_title(f'{title}, %', fontsize=11)
    panel.set_yticks(range(len(names)), names)
    panel.grid(axis='x', alpha=0.3)
    for side in ('top', 'right'):
      panel.spines[side].set_visible(False)
  figure.savefig(path, dpi=120)


def main() -> None:
  """Trains what is missing and writes the folder."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--scale', default='shapes')
  parser.add_argument('--epochs', type=int, default=30)
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--methods', nargs='+', default=METHODS, choices=METHODS)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs/family'))
  parser.add_argument('override', nargs='*', help='-- --config.data.dir=images.npz ...')
  options = parser.parse_args()
  runs: dict[str, list[dict]] = {}
  for seed in options.seeds:
    for name in options.methods:
      try:
        runs.setdefault(name, []).append(train(name, seed, options))
      except subprocess.CalledProcessError as error:
        print(f'{name}, seed {seed}, failed with status {error.returncode}', flush=True)
  runs = {name: each for name, each in runs.items() if each}
  options.out.mkdir(parents=True, exist_ok=True)
  everything = [run for each in runs.values() for run in each]
  for run in everything:
    run['config']['data']['dir'] = pathlib.Path(run['config']['data']['dir']).name
  # Names alone: where data and interpreter lie on this machine is nobody's business.
  command = [pathlib.Path(word).name if '/' in word else word for word in sys.argv[1:]]
  record = {'command': command, 'processor': processor(), 'runs': everything}
  (options.out / 'results.json').write_text(json.dumps(record, indent=1) + '\n')
  (options.out / 'table.md').write_text(table(runs))
  plot(runs, options.out / 'scores.png')
  print(table(runs))


if __name__ == '__main__':
  main()
