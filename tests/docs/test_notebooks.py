"""The notebooks of the documentation: stored without outputs, and every cell runs."""

import json

import pytest

from tests.markdown_pages import ROOT, notebooks

PATHS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))
NAMES = [path.stem for path in PATHS]
SIZES = 'epochs, images = 5, 4000', 'epochs, images = 1, 130'


def test_there_are_two():
  assert NAMES == ['pretrain', 'use']


@pytest.mark.parametrize('path', PATHS, ids=NAMES)
def test_stored_without_outputs(path):
  text = path.read_text()
  stored = json.loads(text)
  assert text == json.dumps(stored, indent=1, ensure_ascii=False) + '\n', 'not as Jupyter writes it'
  assert stored['nbformat'] == 4
  for cell in stored['cells']:
    assert cell['metadata'] == {}
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == [] and cell['execution_count'] is None


def executed(small, tmp_path, monkeypatch):
  """Both notebooks one after the other in one directory, as a reader would; all outputs."""
  monkeypatch.chdir(tmp_path)
  replaced = []

  def edit(text):
    if not small or not text.endswith(SIZES[0].partition(' = ')[2]):
      return text
    replaced.append(text)
    return text.replace('5, 4000', '1, 130')

  every = {}
  for path in PATHS:
    cells = notebooks.read(path)
    every[path.stem] = (cells, notebooks.run(cells, edit))
  assert len(replaced) == (len(PATHS) if small else 0)
  return every


@pytest.mark.slow
def test_every_cell_runs(tmp_path, monkeypatch):
  """On fewer images, for one epoch."""
  every = executed(True, tmp_path, monkeypatch)
  for name, (cells, outputs) in every.items():
    page = notebooks.markdown(cells, outputs)
    assert page.count('data:image/png;base64,') >= 3, name
    assert page.count('```python') == sum(cell.kind == 'code' for cell in cells)
  assert (tmp_path / 'runs' / 'notebook' / 'config.json').exists()


@pytest.mark.slow
def test_the_encoder_beats_an_untrained_one_and_pixels(tmp_path, monkeypatch):
  """What the first notebook shows, at its own size."""
  _, outputs = executed(False, tmp_path, monkeypatch)['pretrain']
  table = next(output.text for output in outputs if output and 'k-NN top-1' in output.text)
  score = {
    line.split()[0]: float(line.split()[-1].rstrip('%')) for line in table.strip().splitlines()
  }
  assert score['online'] > score['pixels'] and score['online'] > score['random'] + 5
