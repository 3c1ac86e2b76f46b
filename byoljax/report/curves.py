"""The curves of a run as one picture, drawn from its record.

Matplotlib is imported when it is needed, and drawn to a file without pyplot: no window system, no
change to anybody's global settings.
"""

from collections.abc import Mapping, Sequence
import contextlib
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from byoljax.report import evaluations, fonts
from byoljax.wording import counted
from byoljax.workdir import metrics
from byoljax.workdir.files import replacing

FILE = 'curves.png'

# Of lines and dots, in every picture.
COLORS = ('#1f5fa8', '#d9730d', '#2e8b57', '#8e44ad', '#b03a3a', '#7f6000', '#4c4c4c', '#008b8b')
_MARKERS, _DASHES = 'os^Dv<>p', ('-', '--', ':', '-.')
_FEW = 40  # Up to so many points are marked one by one, more are smoothed.


class Look(NamedTuple):
  """How a line is drawn: matplotlib's color, marker and line style."""

  color: str
  marker: str
  linestyle: str


def look(number: int) -> Look:
  """Of the line of this number, from 0: those that share a color differ in the other two."""
  turn, color = divmod(number, len(COLORS))
  return Look(COLORS[color], _MARKERS[turn % len(_MARKERS)], _DASHES[turn % len(_DASHES)])


class Curve(NamedTuple):
  """One line of a panel.

  Attributes:
    key: the metric's name in the record.
    label: its name in the legend.
    scale: factor from the record to the picture (100 for per cent).
    noisy: whether to draw a running mean over many points, and the points behind it.
    right: whether it belongs to the axis on the right.
  """

  key: str
  label: str
  scale: float = 1.0
  noisy: bool = False
  right: bool = False


class Panel(NamedTuple):
  """One diagram; left out when the record has none of its curves.

  Attributes:
    title: what is shown.
    curves: in the order of the legend.
    left: label of the left axis, with the unit.
    right: label of the right axis.
    limits: range of the left axis, None where the data decide.
    log: whether the left axis is logarithmic.
  """

  title: str
  curves: tuple[Curve, ...]
  left: str
  right: str = ''
  limits: tuple[float | None, float | None] = (None, None)
  log: bool = False


PANELS = (
  Panel('Loss', (Curve('loss', 'loss', noisy=True),), 'loss'),
  Panel(
    'Accuracy',
    (
      Curve('knn/top1', 'k-NN top-1 (held-out training images)', 100),
      Curve('probe/top1', 'online probe top-1 (training batches)', 100, noisy=True),
      Curve('pretext_accuracy', 'pretext task (training batches)', 100, noisy=True),
    ),
    'accuracy [%]',
    limits=(0, None),
  ),
  Panel(
    'Reconstruction',
    (
      Curve('psnr', 'PSNR of the output (training batches)', noisy=True),
      Curve('psnr_input', 'PSNR of the input', noisy=True),
    ),
    'PSNR [dB]',
  ),
  Panel(
    'Likelihood',
    (
      Curve('bits_per_dim', 'negative log-likelihood (training batches)', noisy=True),
      Curve('masked_bits', 'of masked tokens (training batches)', noisy=True),
    ),
    'bits per dimension',
  ),
  Panel(
    'Spread of the embeddings',
    (
      Curve('collapse/std', 'std × √d (0: collapsed)', noisy=True),
      Curve('collapse/online_target_cosine', 'online–target cosine', noisy=True),
    ),
    'std × √d, cosine',
    limits=(0, 1.05),
  ),
  Panel(
    'Effective rank of the embeddings',
    (Curve('collapse/rank', 'effective rank', noisy=True),),
    'effective rank (1: collapsed)',
    limits=(0, None),
  ),
  Panel('Learning rate', (Curve('lr', 'learning rate'),), 'learning rate', limits=(0, None)),
  Panel('Target network', (Curve('tau', 'τ'),), 'moving-average decay τ'),
  Panel('Gradient norm', (Curve('grad_norm', 'gradient norm', noisy=True),), 'L2 norm', log=True),
  Panel(
    'Throughput',
    (
      Curve('time/img_per_s', 'images per second', noisy=True),
      Curve('time/wait', 'waiting for data', 100, noisy=True, right=True),
    ),
    'images / s',
    'waiting for data [%]',
    limits=(0, None),
  ),
)


class Reference(NamedTuple):
  """A horizontal line that values are to be compared with.

  Attributes:
    panel: title of the panel that it belongs to.
    label: what it is.
    value: in the panel's unit.
  """

  panel: str
  label: str
  value: float


def references(workdir: str | os.PathLike[str]) -> list[Reference]:
  """What can be read of a run that its curves can be compared with; [] where nothing can."""
  run, found = pathlib.Path(workdir), []
  about, results = (evaluations.read_json(run / name) for name in ('config.json', 'results.json'))
  with contextlib.suppress(KeyError, TypeError):
    classes = about['facts']['num_classes']
    if classes > 1:
      found.append(Reference('Accuracy', f'chance, one of {classes:,}', 100 / classes))
  with contextlib.suppress(KeyError, TypeError):
    untrained = results['result']['random initialization']['knn']['top1']
    found.append(Reference('Accuracy', 'k-NN untrained', 100.0 * untrained))
  return found


def plot_run(
  workdir: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> pathlib.Path:
  """Draws the curves of `workdir/metrics.jsonl`.

  Args:
    workdir: directory of the run.
    path: the picture; `workdir/curves.png` when None.

  Returns:
    The path of the PNG.

  Raises:
    ValueError: there is no record, or nothing in it that can be drawn.
  """
  rows = metrics.read(workdir)
  panels = [p for p in PANELS if any(points(rows, curve)[1].size for curve in p.curves)]
  if not panels:
    raise ValueError(f"'{workdir}' has no metrics to draw yet: run the training first.")
  import matplotlib
  from matplotlib.figure import Figure
  from matplotlib.layout_engine import ConstrainedLayoutEngine

  columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3 if len(panels) < 7 else 4)
  lines = -(-len(panels) // columns)
  with matplotlib.rc_context():
    matplotlib.rcdefaults()  # A user's own style must not decide about ours.
    matplotlib.rcParams.update(_STYLE)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(4.6 * columns, 3.1 * lines + 0.5), dpi=110, layout=layout)
    for number, panel in enumerate(panels, 1):
      _draw(figure.add_subplot(lines, columns, number), panel, rows, references(workdir))
    name = fonts.plain(pathlib.Path(workdir).resolve().name)
    figure.suptitle(f'{name}: {counted(rows[-1]["step"], "step")}', fontsize=13, fontweight='bold')
    path = pathlib.Path(workdir) / FILE if path is None else pathlib.Path(path)
    with replacing(path) as file, fonts.boxes_for_others():
      figure.savefig(file, format='png')
  return path


_STYLE: dict[Any, Any] = {
  'font.size': 9,
  'axes.titlesize': 10.5,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': '#888888',
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e4e4e4',
  'grid.linewidth': 0.8,
  'xtick.color': '#444444',
  'ytick.color': '#444444',
  'legend.frameon': False,
  'legend.fontsize': 8.5,
  'lines.linewidth': 1.6,
  'lines.markersize': 3.5,
  'axes.formatter.useoffset': False,
  'axes.formatter.limits': (-3, 6),
}


def points(rows: Sequence[Mapping[str, Any]], curve: Curve) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values where the metric is a finite number."""
  pairs = [
    (row['step'], row[curve.key] * curve.scale)
    for row in rows
    if isinstance(row.get(curve.key), int | float) and np.isfinite(row[curve.key])
  ]
  x, y = zip(*pairs, strict=True) if pairs else ((), ())
  return np.array(x, float), np.array(y, float)


def _smooth(y: np.ndarray) -> np.ndarray:
  """Running mean over 2 % of the points; at the ends over those that there are."""
  width = max(3, len(y) // 50)
  window = np.ones(width)
  return np.convolve(y, window, 'same') / np.convolve(np.ones_like(y), window, 'same')


def _draw(
  axes: Any, panel: Panel, rows: Sequence[Mapping[str, Any]], known: Sequence[Reference]
) -> None:
  """Draws one panel; a curve without any value is left out."""
  from matplotlib.ticker import EngFormatter, MaxNLocator

  other, handles = None, []
  for color, curve in zip(COLORS, panel.curves, strict=False):
    x, y = points(rows, curve)
    if not x.size:
      continue
    target = axes
    if curve.right:
      target = other = other or axes.twinx()
    few = len(x) <= _FEW
    if curve.noisy and not few:
      target.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
      y = _smooth(y)
    marker = 'o' if few else None
    handles += target.plot(x, y, color=color, marker=marker, label=curve.label)
  lines = [one for one in known if one.panel == panel.title]
  for one, style in zip(lines, ('--', ':', '-.'), strict=False):
    handles.append(
      axes.axhline(one.value, color='#777777', linestyle=style, linewidth=1, label=one.label)
    )
  axes.set_title(panel.title)
  axes.set_xlabel('step')
  axes.set_ylabel(panel.left)
  axes.set_xlim(0, max(row['step'] for row in rows) * 1.02 or 1)
  axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
  axes.xaxis.set_major_formatter(EngFormatter(sep=''))
  _limit(axes, panel)
  if other is not None:
    _pair(axes, other, panel, handles)
  elif len(panel.curves) > 1 or lines:
    axes.legend(handles=handles, loc='best')


def _pair(axes: Any, other: Any, panel: Panel, handles: Sequence[Any]) -> None:
  """Two axes: each label takes the color of its curve, instead of a legend."""
  other.set_ylabel(panel.right, color=handles[-1].get_color())
  other.set_ylim(bottom=0)
  other.grid(False)
  if len(handles) > 1:
    axes.yaxis.label.set_color(handles[0].get_color())
  else:
    axes.set_yticks([])
    axes.set_ylabel('')


def _limit(axes: Any, panel: Panel) -> None:
  """Sets the left axis, widened where the data leave the panel's limits."""
  from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

  low, high = axes.dataLim.intervaly
  if not np.isfinite([low, high]).all():
    return  # Every curve is on the right.
  if panel.log and low > 0:
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
  # Numbers as they are: neither an offset nor a power above the axis, which is easily overlooked.
  axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:.6g}'))
  if panel.log and low > 0:
    return
  bottom, top = panel.limits
  if bottom is not None and low >= bottom:
    axes.set_ylim(bottom=bottom, top=bottom + 1.06 * (high - bottom) if high > bottom else None)
  if top is not None:
    axes.set_ylim(top=top if high <= top else None)
