"""BYOL against SimCLR when the batch shrinks and when augmentations are taken away.

    PYTHONPATH=. python experiments/sweeps.py --epochs 10 --seeds 0 --out experiments/sweeps

Each run is one start of `byoljax.main` on the built-in images; finished runs are not repeated.
Written are results.json, table.md and sweeps.png.
"""

import argparse
import json
import pathlib
import statistics

from runner import Job, run_all

METHODS = ('byol', 'simclr')
BATCHES = (256, 128, 64, 32, 16)
VIEWS = ('view1', 'view2')
# name -> fields of both views that differ from the recipe's
REMOVALS = {
  'all': {},
  'no flip': {'flip_prob': 0.0},
  'no gray': {'gray_prob': 0.0},
  'no solarize': {'solarize_prob': 0.0},
  'no jitter': {'jitter_prob': 0.0},
  'no color': {'jitter_prob': 0.0, 'gray_prob': 0.0, 'solarize_prob': 0.0},
  'crop only': {'jitter_prob': 0.0, 'gray_prob': 0.0, 'solarize_prob': 0.0, 'flip_prob': 0.0},
}


def runs(options: argparse.Namespace) -> list[dict]:
  """All runs of both sweeps: {'sweep', 'setting', 'method', 'seed', 'overrides'}."""
  planned = []
  for method in METHODS:
    for seed in options.seeds:
      for batch in options.batches:
        planned.append(
          {'sweep': 'batch', 'setting': str(batch), 'method': method, 'seed': seed,
           'overrides': [f'--config.train.batch_size={batch}']}
        )  # fmt: skip
      for name in options.removals:
        fields = REMOVALS[name]
        overrides = [
          f'--config.views.{view}.{field}={value}'
          for view in VIEWS
          for field, value in fields.items()
        ]
        planned.append(
          {'sweep': 'augmentation', 'setting': name, 'method': method, 'seed': seed,
           'overrides': overrides}
        )  # fmt: skip
  return planned


def job(run: dict, options: argparse.Namespace) -> Job:
  """How the run is started."""
  tag = '-'.join([run['sweep'], run['setting'].replace(' ', '_'), run['method'], str(run['seed'])])
  return Job(
    f'{run["method"]}:shapes,{options.epochs}',
    options.runs / tag,
    [f'--config.seed={run["seed"]}', '--config.evals.baselines=false',
     '--config.log.tensorboard=false', *run['overrides'], *options.override],
  )  # fmt: skip


def scored(run: dict, outcome: dict) -> dict:
  """The run with its k-NN and linear accuracy, in per cent."""
  result = outcome['result'][run['method']]
  return run | {name: 100 * result[name]['top1'] for name in ('knn', 'linear')}


def summary(scores: list[dict]) -> dict:
  """{sweep: {method: {setting: mean linear top-1}}}, settings in the order of the sweep."""
  means: dict = {}
  for one in scores:
    of_method = means.setdefault(one['sweep'], {}).setdefault(one['method'], {})
    of_method.setdefault(one['setting'], []).append(one['linear'])
  return {
    sweep: {
      method: {setting: statistics.mean(values) for setting, values in settings.items()}
      for method, settings in methods.items()
    }
    for sweep, methods in means.items()
  }


def table(means: dict) -> str:
  """Linear top-1 and its loss against each method's first setting, as Markdown."""
  lines = []
  for sweep, methods in means.items():
    lines += [f'| {sweep} | ' + ' | '.join(f'{m} | lost' for m in methods) + ' |']
    lines += ['|---' * (1 + 2 * len(methods)) + '|']
    for setting in next(iter(methods.values())):
      cells = []
      for settings in methods.values():
        best = next(iter(settings.values()))
        cells += [f'{settings[setting]:.1f}', f'{best - settings[setting]:.1f}']
      lines.append(f'| {setting} | ' + ' | '.join(cells) + ' |')
    lines.append('')
  return '\n'.join(lines)


def plot(means: dict, path: pathlib.Path) -> None:
  """Change of linear top-1 against the first setting, one panel a sweep, one line a method."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 4.2), layout='constrained')
  FigureCanvasAgg(figure)
  titles = {'batch': 'smaller batches', 'augmentation': 'augmentations taken away'}
  for panel, (sweep, methods) in zip(figure.subplots(1, 2), means.items(), strict=True):
    for method, settings in methods.items():
      values = list(settings.values())
      panel.plot(list(settings), [v - values[0] for v in values], 'o-', label=method, linewidth=1.5)
    panel.axhline(0, color='#636363', linewidth=0.8)
    panel.set_title(titles[sweep], fontsize=11)
    panel.set_ylabel('change of linear top-1, points')
    panel.tick_params(axis='x', labelrotation=25 if sweep == 'augmentation' else 0)
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    for side in ('top', 'right'):
      panel.spines[side].set_visible(False)
  figure.savefig(path, dpi=120)


def main() -> None:
  """Trains what is missing and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--epochs', type=int, default=15)
  parser.add_argument('--seeds', type=int, nargs='+', default=[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs/sweeps'))
  parser.add_argument('--batches', type=int, nargs='+', default=BATCHES)
  parser.add_argument('--removals', nargs='+', default=list(REMOVALS), choices=list(REMOVALS))
  parser.add_argument('--workers', type=int, default=1, help='runs at a time')
  parser.add_argument('override', nargs='*', help='-- --config.data.name=npz ...')
  options = parser.parse_args()
  planned = runs(options)
  outcomes = run_all([job(run, options) for run in planned], options.workers)
  scores = [scored(run, outcome) for run, outcome in zip(planned, outcomes, strict=True) if outcome]
  means = summary(scores)
  record = {'epochs': options.epochs, 'seeds': options.seeds, 'runs': scores}
  options.out.mkdir(parents=True, exist_ok=True)
  (options.out / 'results.json').write_text(json.dumps(record, indent=1) + '\n')
  (options.out / 'table.md').write_text(table(means))
  plot(means, options.out / 'sweeps.png')
  print(table(means))


if __name__ == '__main__':
  main()
