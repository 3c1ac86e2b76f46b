"""Folders of Hugging Face's `datasets`, and data sets of its hub with a small module in its place.

`tests/golden/saved_datasets.zip` was written by the library itself (make_saved_datasets.py).
"""

import importlib.util
import inspect
import json
import shutil
import sys
import zipfile

import numpy as np
import pytest

from byoljax.api import session
from byoljax.data.sources import catalog, datasets, hub_data, image_file, packed_files
from byoljax.data.sources.source import NoSplitError
from tests.fake_hub import FakeHub
from tests.paths import GOLDEN

HAS_PYARROW = importlib.util.find_spec('pyarrow') is not None
tables = pytest.mark.skipif(not HAS_PYARROW, reason="needs pip install 'byoljax[parquet]'")
CONVERTED = 'refs/convert/parquet'


@pytest.fixture
def written(tmp_path):
  """`saved`, `single` and `data`, as `datasets` has written them."""
  with zipfile.ZipFile(GOLDEN / 'saved_datasets.zip') as opened:
    opened.extractall(tmp_path)
  return tmp_path


@pytest.fixture
def fake(written, monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', FakeHub(written))
  hub_data.folder_of.cache_clear()
  yield sys.modules['huggingface_hub']
  hub_data.folder_of.cache_clear()


def publish(written, name, *inner):
  """Puts the written Parquet files into a repository, as far as they are there still."""
  there = written / 'hub' / 'dataset' / name
  for folder in inner or ['']:
    shutil.copytree(written / 'data', there / folder)
  return there


def pixels(place, split, name='shards'):
  """(value, class) of every image of a split: all pixels of an image have one value."""
  made = datasets.load(name, split, data_dir=place)
  files, labels = made.read(np.arange(made.size))
  shown = [image_file.decode(file) for file in files]
  assert all(image.shape == (3, 4, 3) and len(np.unique(image)) == 1 for image in shown)
  return [
    (int(x[0, 0, 0]), made.class_names[label]) for x, label in zip(shown, labels, strict=True)
  ]


TRAIN = [(0, 'cat'), (1, 'dog'), (2, 'owl'), (3, 'cat'), (4, 'dog')]
TEST = [(100, 'cat'), (101, 'dog')]


@tables
def test_every_layout_of_the_library_is_read(written):
  """Both columns of classes and the image's have names that only the file's metadata tell apart."""
  assert pixels(written / 'saved', 'train') == TRAIN and pixels(written / 'saved', 'test') == TEST
  assert pixels(written / 'data', 'train') == TRAIN and pixels(written / 'data', 'test') == TEST
  assert pixels(written / 'single', 'pretrain') == TRAIN
  with pytest.raises(NoSplitError, match='has no test images'):
    pixels(written / 'single', 'test')
  assert session._named(str(written / 'saved')) == {'name': 'shards', 'dir': str(written / 'saved')}
  with pytest.raises(ValueError, match=r'--data.name=shards reads .arrow files'):
    datasets.load('folder', 'train', data_dir=written / 'saved')


def test_which_files_belong_to_a_saved_folder(written):
  """Needs no pyarrow: what is left over of computations is no image, what is missing is said."""
  names = [file.rsplit('/', 1)[1] for file in packed_files.files(str(written / 'single'))]
  assert names == ['data-00000-of-00001.arrow']
  saved = packed_files.files(str(written / 'saved'))
  assert [packed_files.split_of(str(written / 'saved'), file) for file in saved] == [
    'test', 'train', 'train',
  ]  # fmt: skip
  state = written / 'single' / 'state.json'
  stated = json.loads(state.read_text())
  for changed, said in [
    (stated | {'_data_files': [{'filename': 'gone.arrow'}]}, 'gone.arrow, which state.json names'),
    (stated | {'_indices_data_files': [{'filename': 'i.arrow'}]}, 'selects rows'),
    ({}, 'not as `datasets` writes it'),
  ]:
    state.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=said):
      packed_files.files(str(written / 'single'))
  state.unlink()
  assert len(packed_files.files(str(written / 'single'))) == 1


def test_splits_are_said_by_names_and_folders():
  for path, split in {
    'data/train-00000-of-00001.parquet': 'train',
    'default/test/0000.parquet': 'test',
    'default/partial-train/0000.parquet': 'train',
    'train/photos-val-3.tar': 'val',
    'contest/0.tar': '',
  }.items():
    assert packed_files.split_of('/data', f'/data/{path}') == split
  assert packed_files.split_of('/test/x.tar', '/test/x.tar') == ''


def test_what_is_incomplete_is_said():
  files = ['/d/train-00000-of-00003.parquet', '/d/train-00002-of-00003.parquet', '/d/extra.parquet']
  incomplete, silent = packed_files.notes(files, ['train', 'train', ''])
  assert incomplete == '2 of the 3 files of /d/train are there; the others are not read.'
  assert '1 of 3 packed files, such as /d/extra.parquet, say no split' in silent
  assert not packed_files.notes(['/d/a.parquet', '/d/b.parquet'], ['', ''])
  (partial,) = packed_files.notes(['/d/partial-train/0000.parquet'], ['train'])
  assert 'only a part of this data set' in partial


@tables
def test_labels_of_a_split_that_are_secret_are_none(written):
  """Of a test split without labels and a validation split with them, the second is tested on."""
  import pyarrow
  from pyarrow import parquet

  def rewrite(name, labels, new):
    table = parquet.read_table(written / 'data' / f'{name}-00000-of-00001.parquet')
    at = table.schema.get_field_index('label')
    column = pyarrow.array(labels, pyarrow.int64())
    table = table.set_column(at, table.schema.field(at), column)
    parquet.write_table(table, written / 'data' / f'{new}-00000-of-00001.parquet')

  rewrite('test', [2, -1], 'validation')
  rewrite('test', [-1, -1], 'test')
  assert pixels(written / 'data', 'test') == [(100, 'owl')]


@tables
@pytest.mark.parametrize(
  ('columns', 'said'),
  [
    ({'text': ['a']}, 'has the columns text, but images are looked for as'),
    ({'image': [[1, 2]]}, "the column 'image' holds list"),
  ],
)
def test_tables_without_images_are_a_sentence(tmp_path, columns, said):
  import pyarrow

  table = pyarrow.table(columns)
  with pyarrow.ipc.new_file(str(tmp_path / 'a.arrow'), table.schema) as file:
    file.write_table(table)
  with pytest.raises(ValueError, match=said):
    datasets.load('shards', 'train', data_dir=tmp_path)
  (tmp_path / 'a.arrow').write_bytes(b'nothing')
  with pytest.raises(ValueError, match='cannot be read as Arrow'):
    datasets.load('shards', 'train', data_dir=tmp_path)


@tables
def test_lists_of_labels_are_none_and_images_may_lie_beside(tmp_path, written):
  import pyarrow

  (tmp_path / 'x.png').write_bytes(b'an image')
  columns = {'img': [{'bytes': None, 'path': 'x.png'}], 'labels': [[0, 1]]}
  table = pyarrow.table(columns)
  with pyarrow.ipc.new_stream(str(tmp_path / 'a.arrow'), table.schema) as file:
    file.write_table(table)
  made = datasets.load('shards', 'train', data_dir=tmp_path / 'a.arrow')
  assert made.labels is None and made.read(np.arange(1))[0][0] == b'an image'


@tables
def test_a_data_set_of_the_hub(fake, written, tmp_path):
  """Its Parquet files alone are fetched, once in a process; nothing else of the repository."""
  there = publish(written, 'me/birds')
  (there / 'birds.py').write_text('raise SystemExit')
  assert pixels('', 'train', 'hf:me/birds') == TRAIN
  assert pixels('', 'test', 'hf:me/birds') == TEST
  assert fake.asked == [('me/birds', None)] * 2  # What it says of itself, then the files.
  cached = sorted(path.name for path in (tmp_path / 'cache').rglob('*') if path.is_file())
  assert cached == ['test-00000-of-00001.parquet', 'train-00000-of-00001.parquet']
  assert pixels(tmp_path / 'kept', 'train', 'hf:me/birds@v1') == TRAIN
  assert fake.asked[-1] == ('me/birds', 'v1')
  assert (tmp_path / 'kept' / 'dataset' / 'me' / 'birds').is_dir()
  assert datasets.load('hf:me/birds', 'train').name == 'hf:me/birds'


@tables
def test_a_script_is_read_as_the_hub_has_converted_it(fake, written):
  (written / 'hub' / 'dataset' / 'me' / 'old').mkdir(parents=True)
  publish(written, 'me/old@refs-convert-parquet', 'default/one', 'other/two')
  assert pixels('', 'train', 'hf:me/old/other') == TRAIN
  assert fake.asked[-1] == ('me/old', CONVERTED)


@tables
def test_saved_folders_on_the_hub(fake, written):
  shutil.copytree(written / 'saved', written / 'hub' / 'dataset' / 'me' / 'saved')
  assert pixels('', 'test', 'hf:me/saved') == TEST


@tables
def test_one_of_several_data_sets_is_asked_for(fake, written):
  """By what the README.md of the repository says, before anything else of it is fetched."""
  there = publish(written, 'me/two', 'large', 'small')
  about = '---\nconfigs:\n- config_name: small\n  data_files: x\n- config_name: "large"\n---\nText'
  (there / 'README.md').write_text(about)
  with pytest.raises(ValueError, match=r'several data sets, large, small: write .*hf:me/two/large'):
    datasets.load('hf:me/two', 'train')
  assert len(fake.asked) == 1
  assert pixels('', 'train', 'hf:me/two/small') == TRAIN
  with pytest.raises(ValueError, match='README.md says: large, small. Name the folder of one'):
    datasets.load('shards', 'train', data_dir=there)


@tables
def test_what_the_hub_has_not_is_a_sentence(fake, written):
  with pytest.raises(ValueError, match="^'hf:me/none' could not be fetched: 404 Client Error.$"):
    datasets.load('hf:me/none', 'train')
  for name in ('me/pictures', 'me/pictures@refs-convert-parquet'):
    (written / 'hub' / 'dataset' / name).mkdir(parents=True)
  with pytest.raises(ValueError, match="'hf:me/pictures' has no Parquet, tar, zip or Arrow file"):
    datasets.load('hf:me/pictures', 'train')


@pytest.mark.parametrize('name', ['hf:birds', 'hf:', 'hf:me/', 'hf:../x', 'hf:a/b/@', 'hf:a@b'])
def test_names_are_checked_before_anything_is_asked(fake, name):
  with pytest.raises(ValueError, match=r'write (hf:)?owner/name'):
    datasets.load(name, 'train')
  assert not fake.asked


def test_without_the_packages_their_extras_are_named(monkeypatch):
  assert catalog.facts('hf:me/birds').kind == 'hub'
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ValueError, match=r"pip install 'byoljax\[(hub|parquet)\]'"):
    datasets.load('hf:me/birds', 'train')
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(ValueError, match=r"pip install 'byoljax\[parquet\]'"):
    datasets.load('hf:me/birds', 'train')


def test_the_real_package_takes_these_arguments():
  huggingface_hub = pytest.importorskip('huggingface_hub', reason='needs byoljax[hub]')
  download = inspect.signature(huggingface_hub.snapshot_download)
  download.bind(
    repo_id='a/b', revision=None, allow_patterns=['*.parquet'], repo_type='dataset', cache_dir='x'
  )
