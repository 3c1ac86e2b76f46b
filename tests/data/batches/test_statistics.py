"""Mean and spread of a set's channels, by hand."""

import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.data.batches import statistics
from byoljax.data.sources import arrays, folder
from byoljax.tasks import data as data_lib
from byoljax.tasks import stats
from byoljax.workdir.files import write_json
from tests.conftest import save_colors

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 2), dtype=np.uint8)


def test_they_are_those_of_all_pixels():
  found = statistics.of_channels(arrays.from_arrays(IMAGES), 4)
  pixels = (IMAGES / 255).reshape(-1, 2)
  assert found.mean == pytest.approx(tuple(pixels.mean(0)), abs=6e-5)  # rounded to four digits
  assert found.std == pytest.approx(tuple(pixels.std(0)), abs=6e-5)
  assert found.images == 300
  some = statistics.of_channels(arrays.from_arrays(IMAGES), 4, most=100)
  assert some.images == 100 and some.mean == pytest.approx(found.mean, abs=0.05)
  assert some == statistics.of_channels(arrays.from_arrays(IMAGES), 4, most=100)


def test_a_constant_channel_is_named():
  flat = IMAGES.copy()
  flat[..., 1] = 51
  with pytest.raises(ValueError, match='one value in channel 1, 0.2'):
    statistics.of_channels(arrays.from_arrays(flat), 4)


@pytest.fixture
def config(tmp_path):
  npz = save_colors(tmp_path / 'x.npz', 20, 4)
  fields = [('data.mean', 'auto'), ('data.std', 'auto'), ('data.dir', str(npz))]
  made = config_lib.load(f'{cli.recipes_directory()}/byol.py:npz', fields)
  with made.unlocked():
    made.evals.image_size = 12
  return made


def test_auto_is_computed_once_and_stored_with_the_run(config, tmp_path, capsys):
  assert config.data.mean == config.data.std == ()
  workdir = tmp_path / 'run'
  data_lib.open_split(config, 'pretrain', workdir)
  with np.load(config.data.dir) as stored:
    pixels = (stored['x_train'] / 255).reshape(-1, 3)
  assert config.data.mean == pytest.approx(tuple(pixels.mean(0)), abs=6e-5)
  assert config.data.std == pytest.approx(tuple(pixels.std(0)), abs=6e-5)
  assert 'data.mean of the images: (0.' in capsys.readouterr().out
  workdir.mkdir()
  write_json(workdir / 'config.json', {'config': {'data': {'mean': [0.1], 'std': [0.2]}}})
  with config.unlocked():
    config.data.mean = ()
  data_lib.open_split(config, 'pretrain', workdir)
  assert config.data.mean == (0.1,) and config.data.std != (0.2,), 'of a run that has begun'


def test_stats_prints_what_to_type(config, capsys):
  assert (
    cli.run(['stats', 'byol:npz', f'--data.dir={config.data.dir}', '--evals.image_size=12']) == 0
  )
  said = capsys.readouterr().out
  assert '20 images of x.npz:pretrain, 3 channels, 12 pixels (shorter side)' in said
  assert '3 classes of ' in said
  assert 'are decoded' not in said
  line = said.splitlines()[-1].strip().replace("'", '')
  mean, std = (word.partition('=')[2] for word in line.split(' --'))
  config_lib.override(config, 'data.mean', mean)
  assert len(config.data.mean) == 3 and len(std) > 10


def test_sizes_of_files(tmp_path):
  for number, sides in enumerate([(20, 9), (7, 30), (12, 12)]):
    Image.new('RGB', sides).save(tmp_path / f'{number}.png')
  (tmp_path / 'broken.png').write_bytes(b'no image')
  source = folder.from_folder(tmp_path, 'pretrain')
  sides = statistics.shorter_sides(source)
  assert list(sides) == [7, 9, 12]
  assert stats.sizes(sides) == ', 7 to 12 pixels, typically 9 (shorter side, of 3 images)'
  assert len(statistics.shorter_sides(source, most=2)) <= 2
  assert stats.sizes(sides[:0]) == ''


def test_large_photographs_are_questioned(config, capsys):
  where = f'--data.dir={config.data.dir}'
  assert cli.run(['stats', 'byol:npz', where, '--evals.image_size=1']) == 0
  assert 'far more than 1 pixels need: copies of some 4 are decoded' in capsys.readouterr().out
