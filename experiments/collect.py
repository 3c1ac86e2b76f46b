"""Gathers finished runs into an experiment's folder: numbers, curves, a table.

    python experiments/collect.py --out experiments/shapes_byol runs/shapes-0 runs/shapes-1

Each run is a workdir with results.json. Written are results.json (every run's numbers, protocol and
versions), metrics/<run>.jsonl, curves.png, and table.md, to be copied into the experiment's README.
"""

import argparse
import itertools
import json
import pathlib
import platform
import statistics

from byoljax.workdir import metrics

COLUMNS = (('k-NN top-1', 'knn'), ('linear top-1', 'linear'))
CURVES = (
  ('loss', 'loss'),
  ('knn/top1', 'k-NN top-1 during training'),
  ('probe/top1', 'online probe, training batch'),
  ('collapse/std', 'spread of embeddings × √d'),
)


def processor() -> str:
  """The processor's name, where the system tells it."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    return next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
  except (OSError, StopIteration):
    return platform.processor() or 'unknown'


def load(run: pathlib.Path) -> dict:
  """One run's results, without paths of the machine that it ran on."""
  stored = json.loads((run / 'results.json').read_text())
  stored['checkpoint'] = pathlib.Path(stored['checkpoint']).name
  data = stored['config']['data']
  data['dir'] = pathlib.Path(data['dir']).name
  rows = metrics.read(run)
  stored['run'] = run.name
  stored['last'] = {k: v for k, v in rows[-1].items() if not k.startswith('time/')}
  # Rows after a resume count from the resume: the training time is the sum of the segments.
  stored['minutes_with_evaluation'] = rows[-1]['time/elapsed_s'] / 60
  stored['images_per_second'] = rows[-1].get('time/img_per_s_run')
  stored['share_of_time_waiting_for_data'] = rows[-1].get('time/wait_run')
  stored['processor'] = processor()
  return stored


def table(runs: list[dict]) -> str:
  """Mean ± standard deviation over the seeds of the runs that have it, in per cent, as Markdown."""
  lines = ['| encoder | ' + ' | '.join(name for name, _ in COLUMNS) + ' |', '|---|---|---|']
  for encoder in dict.fromkeys(itertools.chain(*(run['result'] for run in runs))):
    # Runs of several methods with one seed have the same baselines.
    of_seed = {run['config']['seed']: run['result'] for run in runs if encoder in run['result']}
    cells = []
    for _, key in COLUMNS:
      values = [100 * result[encoder][key]['top1'] for result in of_seed.values()]
      spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
      cells.append(f'{statistics.mean(values):.1f}{spread}')
    lines.append(f'| {encoder} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def plot(folders: list[pathlib.Path], path: pathlib.Path) -> None:
  """One panel a metric, one line a run."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(9, 6), layout='constrained')
  FigureCanvasAgg(figure)
  panels = figure.subplots(2, 2).flat
  for panel, (name, title) in zip(panels, CURVES, strict=True):
    for folder in folders:
      points = [(row['epoch'], row[name]) for row in metrics.read(folder) if name in row]
      dots = 'o-' if len(points) < 20 else '-'
      panel.plot(*zip(*points, strict=True), dots, markersize=3, linewidth=1.2, label=folder.name)
    panel.set_title(title, fontsize=11)
    panel.set_xlabel('epoch')
    panel.grid(alpha=0.3)
    for side in ('top', 'right'):
      panel.spines[side].set_visible(False)
  if len(folders) > 1:
    figure.axes[0].legend(frameon=False, fontsize=9)
  figure.savefig(path, dpi=120)


def main() -> None:
  """Reads the runs that are named and writes the folder."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('runs', type=pathlib.Path, nargs='+')
  options = parser.parse_args()
  (options.out / 'metrics').mkdir(parents=True, exist_ok=True)
  runs = [load(run) for run in options.runs]
  (options.out / 'results.json').write_text(json.dumps(runs, indent=1) + '\n')
  (options.out / 'table.md').write_text(table(runs))
  for run in options.runs:
    (options.out / 'metrics' / f'{run.name}.jsonl').write_text((run / 'metrics.jsonl').read_text())
  plot(options.runs, options.out / 'curves.png')
  print(table(runs))


if __name__ == '__main__':
  main()
