"""Curves and tables."""

import io
import math
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from byoljax.report import curves
from byoljax.report.curves import plot_run
from byoljax.report.table import format_table
from byoljax.workdir.metrics import Writer

ROWS = [
  {'encoder': 'BYOL', 'k-NN top-1': 0.7123, 'linear top-1': np.float32(0.8)},
  {'encoder': 'random init', 'k-NN top-1': 0.3, 'linear top-1': 0.4567},
  {'encoder': 'raw pixels', 'k-NN top-1': 0.25, 'linear top-1': None},
]
COLUMNS = ['encoder', 'k-NN top-1', 'linear top-1']
PERCENT = dict.fromkeys(COLUMNS[1:], '{:.1%}')


def test_table_for_a_terminal():
  assert format_table(ROWS, COLUMNS, formats=PERCENT, style='unicode').split('\n') == [
    'encoder      k-NN top-1  linear top-1',
    '───────────  ──────────  ────────────',
    'BYOL              71.2%         80.0%',
    'random init       30.0%         45.7%',
    'raw pixels        25.0%             –',
  ]


def test_table_in_ascii_and_shared_decimals():
  text = format_table([*ROWS, {'encoder': 'größer'}], COLUMNS, style='ascii')
  assert text.isascii()
  assert text.split('\n') == [
    'encoder      k-NN top-1  linear top-1',
    '-----------  ----------  ------------',
    'BYOL             0.7123        0.8000',
    'random init      0.3000        0.4567',
    'raw pixels       0.2500             -',
    'gr??er                -             -',
  ]


def test_table_in_markdown():
  rows = [{'a|b': 'x|y', 'n': 1}, {'a|b': 'two\nlines', 'n': 20}]
  assert format_table(rows, ['a|b', 'n'], style='markdown').split('\n') == [
    '| a\\|b      |   n |',
    '| --------- | --: |',
    '| x\\|y      |   1 |',
    '| two lines |  20 |',
  ]


def test_numbers_need_no_more_decimals_than_the_most_exact():
  rows = [{'t': 0.07, 'k': 1, 'x': 1 / 3}, {'t': 0.1, 'k': 200, 'x': math.nan}]
  lines = format_table(rows, ['t', 'k', 'x'], style='ascii').split('\n')
  assert lines[2:] == ['0.07    1  0.3333', '0.10  200     nan']


def test_wide_characters_are_aligned():
  rows = [{'name': '犬', 'n': 1}, {'name': 'abcd', 'n': 2}]
  assert format_table(rows, ['name', 'n'], style='unicode').split('\n')[2:] == [
    '犬      1',
    'abcd    2',
  ]


def test_names_do_not_control_the_terminal():
  text = format_table([{'run': 'a\x1b[31m\x07b\tc', 'n': 1}], ['run', 'n'], style='unicode')
  assert text.split('\n')[2] == 'a [31m b c    1'


def test_empty_table_is_a_header():
  assert format_table([], ['k', 'top1'], style='ascii') == 'k    top1\n---  ----'


@pytest.mark.parametrize(('encoding', 'rule'), [('utf-8', '───'), ('ascii', '---')])
def test_style_follows_the_output(monkeypatch, encoding, rule):
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), encoding=encoding))
  text = format_table([], ['k'])
  monkeypatch.undo()
  assert text.split('\n')[1] == rule


def test_bad_table_arguments():
  with pytest.raises(ValueError, match="table style 'markdwn'.*did you mean 'markdown'"):
    format_table(ROWS, COLUMNS, style='markdwn')
  with pytest.raises(ValueError, match="no column 'top1' to format; columns: encoder, k-NN"):
    format_table(ROWS, COLUMNS, formats={'top1': '{:.1%}'})


def record(workdir, count, *, last_step=None, keys=None):
  last_step = last_step or count * 10
  with Writer(workdir, tensorboard=False) as writer:
    for i in range(1, count + 1):
      u = i / count
      row = {
        'loss': 2 * math.exp(-3 * u),
        'grad_norm': math.exp(-u),
        'lr': 0.3 * (1 - u),
        'tau': 1 - 0.004 * (1 - u),
        'probe/top1': 0.8 * u,
        'collapse/std': 0.9,
        'collapse/rank': 100 * u,
        'collapse/online_target_cosine': 0.9 * u - 0.1,
        'time/img_per_s': 1200.0,
        'time/wait': 0.03,
        'psnr': 20 * u,
        'bits_per_dim': 8 - 5 * u,
      }
      if i % 10 == 0:
        row['knn/top1'] = 0.7 * u
      writer.write(i * last_step // count, {k: row[k] for k in keys or row if k in row})


def drawn(path):
  """The picture's size, and the share of its pixels that are not white."""
  with Image.open(path) as image:
    assert image.format == 'PNG'
    pixels = np.asarray(image.convert('RGB'))
  return pixels.shape, np.mean(np.any(pixels < 250, axis=-1))


@pytest.fixture
def panels(monkeypatch):
  """Titles and curves of the panels that get drawn, read off the axes."""
  seen = {}
  draw = curves._draw

  def spy(axes, panel, rows, known):
    draw(axes, panel, rows, known)
    every = [a for a in axes.figure.axes if a.get_position().bounds == axes.get_position().bounds]
    lines = [line for a in every for line in a.get_lines()]
    seen[axes.get_title('left')] = {
      line.get_label(): line.get_xydata() for line in lines if not line.get_label().startswith('_')
    }

  monkeypatch.setattr(curves, '_draw', spy)
  return seen


def test_all_curves_of_a_long_run(tmp_path, panels):
  home = tmp_path / r'by$\frac$ol'  # No formula, and no error about one.
  record(home, 200)
  path = plot_run(home)
  assert path == home / 'curves.png'
  (height, width, _), ink = drawn(path)
  assert width > 1500
  assert height > 500
  assert ink > 0.03
  assert [p.name for p in path.parent.iterdir() if p.suffix == '.tmp'] == []
  assert list(panels) == [panel.title for panel in curves.PANELS]
  # In per cent, unsmoothed where it is few.
  knn = panels['Accuracy']['k-NN top-1 (held-out training images)']
  np.testing.assert_allclose(knn[:, 0], np.arange(100, 2001, 100))
  np.testing.assert_allclose(knn[-1, 1], 70)
  np.testing.assert_allclose(panels['Learning rate']['learning rate'][0], [10, 0.3 * 199 / 200])


@pytest.mark.parametrize('keys', [None, ('loss',), ('time/wait',), ('knn/top1', 'collapse/rank')])
@pytest.mark.parametrize('count', [1, 10])
def test_single_rows_and_missing_keys(tmp_path, keys, count, panels):
  record(tmp_path, count, last_step=7 * count, keys=keys)
  if keys == ('knn/top1', 'collapse/rank') and count == 1:
    keys = ('collapse/rank',)
  _, ink = drawn(plot_run(tmp_path, tmp_path / 'other.png'))
  assert ink > 0.005
  if keys is not None:
    expected = {p.title for p in curves.PANELS if any(c.key in keys for c in p.curves)}
    assert set(panels) == expected


def test_values_that_are_not_finite_are_gaps(tmp_path, panels):
  with Writer(tmp_path, tensorboard=False) as writer:
    for step, loss in enumerate([1.0, math.nan, math.inf, 2.0]):
      writer.write(step, {'loss': loss, 'grad_norm': 0.0, 'lr': 'none'})
  plot_run(tmp_path)
  np.testing.assert_array_equal(panels['Loss']['loss'], [[0, 1], [3, 2]])
  assert set(panels) == {'Loss', 'Gradient norm'}


def test_smoothing_keeps_a_constant_and_averages_noise():
  np.testing.assert_allclose(curves._smooth(np.full(100, 3.0)), 3)
  noise = np.random.default_rng(0).normal(size=1000)
  assert np.std(curves._smooth(noise)) < 0.4
  np.testing.assert_allclose(curves._smooth(np.array([0.0, 3, 6, 9])), [1.5, 3, 6, 7.5])


def test_nothing_to_draw_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='has no metrics to draw yet'):
    plot_run(tmp_path)
  assert not (tmp_path / 'curves.png').exists()


@pytest.mark.slow
def test_no_window_system_and_nobodys_settings(tmp_path):
  record(tmp_path, 3)
  code = (
    'import sys, matplotlib; matplotlib.rcParams["font.size"] = 33\n'
    f'from byoljax.report.curves import plot_run; plot_run({str(tmp_path)!r})\n'
    'assert matplotlib.rcParams["font.size"] == 33\n'
    'assert not {"matplotlib.pyplot", "PyQt5", "PyQt6", "tkinter"} & set(sys.modules)\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
  lazy = 'import sys, byoljax.report.curves; assert "matplotlib" not in sys.modules'
  subprocess.run([sys.executable, '-c', lazy], check=True)
