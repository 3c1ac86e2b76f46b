"""`byoljax.classify`: few labels in, a classifier out, from a program."""

import csv
import json
import shutil

import flax.linen as nn
import numpy as np
from PIL import Image
import pytest

import byoljax
from byoljax import cli
from byoljax import config as config_lib
from byoljax.api import classification
from byoljax.config import ConfigError
from byoljax.encoders import classifier
from byoljax.encoders.encoder import Encoder, network
from byoljax.tasks import classify, export

QUICK = {'classify.lambdas': (0.1, 1.0), 'classify.k': (1, 5)}


@pytest.fixture(scope='module')
def arrays(npz):
  with np.load(npz) as stored:
    return dict(stored)


@pytest.fixture(scope='module')
def made(untrained, arrays, tmp_path_factory):
  """A classifier of 30 labels by name; 50 images have none."""
  names = np.array(['red', 'green', 'blue'])[arrays['y_train']]
  labels = [name if row < 30 else None for row, name in enumerate(names)]
  run = shutil.copytree(untrained, tmp_path_factory.mktemp('run') / 'run')
  return byoljax.classify(arrays['x_train'], labels, from_=run, settings=QUICK)


def test_it_answers_about_the_images_without_a_label_and_new_ones(made, arrays):
  assert made.classes == ('blue', 'green', 'red')
  assert made.directory.parent.name == 'evals' and 'classify-online-0-given-' in str(made.directory)
  truth = np.array(['red', 'green', 'blue'])[arrays['y_train'][30:]]
  said = np.array([row['class'] for row in made.answers])
  assert len(said) == 50 and np.mean(said == truth) > 0.6
  chances = made.predict(arrays['x_train'][30:])
  assert chances.shape == (50, 3) and (chances.sum(1) == pytest.approx(1))
  assert (
    [made.classes[at] for at in chances.argmax(1)] == list(said) == made(arrays['x_train'][30:])
  )
  assert f'{chances[0].max():.4f}' == made.answers[0]['p1']


def test_its_scores_are_a_table(made):
  rows = made.scores
  assert [row['head'] for row in rows] == ['logistic', 'knn'] and sum(r['taken'] for r in rows) == 1
  taken = next(row for row in rows if row['taken'])
  assert taken['top-1'] == made.result['top1'] and 0 <= taken['balanced'] <= 1
  assert made.result['test_examples'] == 30 and '3 classes' in repr(made)
  assert 'largest class' in made._repr_html_() and 'blue, green, red' in made._repr_html_()


def test_it_is_what_the_command_makes(untrained, npz, tmp_path):
  """The same scores, the same answers; `byoljax predict` takes either."""
  ours = byoljax.classify(npz, from_=untrained, workdir=tmp_path / 'ours', settings=QUICK)
  flags = [f'--{name}={value}' for name, value in QUICK.items()]
  command = ['classify', str(npz), f'--from={untrained}', f'--workdir={tmp_path / "b"}', *flags]
  assert cli.run(command) == 0
  results = [json.loads((tmp_path / n / 'result.json').read_text()) for n in ('ours', 'b')]
  assert results[0]['result'] == results[1]['result'] and ours.answers == []
  assert results[0]['config'] == results[1]['config']
  out = tmp_path / 'p.csv'
  assert cli.run(['predict', str(ours.directory), str(npz), f'--out={out}']) == 0
  with out.open() as file:
    assert [row['class'] for row in csv.DictReader(file)] == ours(npz)


def test_an_encoder_that_is_no_run(untrained, arrays, tmp_path, capsys):
  encoder = byoljax.load(untrained)
  given = {'test': arrays['x_test'], 'test_labels': arrays['y_test'], 'head': 'knn'}
  train = (arrays['x_train'], arrays['y_train'])
  made = byoljax.classify(*train, from_=encoder, workdir=tmp_path / 'c', settings=QUICK, **given)
  assert made.result['test_examples'] == 24 and made.classes == ('0', '1', '2')
  again = classifier.load(tmp_path / 'c')
  expected = made.classifier.predict(arrays['x_test'])
  np.testing.assert_array_equal(again.predict(arrays['x_test']), expected)
  about = export.about_encoder_of(again)
  assert (about['data'], about['step']) == ('images that are not known', 0)
  assert cli.run(['robustness', str(tmp_path / 'c')]) == 2
  assert 'from an encoder that is no run' in capsys.readouterr().err
  with pytest.raises(ConfigError, match='workdir is missing'):
    byoljax.classify(*train, from_=encoder)
  with pytest.raises(ConfigError, match='must be a run, not its encoder'):
    byoljax.classify(*train, from_=encoder, workdir=tmp_path / 'd', head='finetune')


class Mean(nn.Module):
  """An encoder of the user's own, without parameters."""

  @nn.compact
  def __call__(self, x, *, train):
    del train
    return x.mean((1, 2))


def test_an_encoder_of_a_module_of_ones_own(untrained, arrays, tmp_path):
  given = byoljax.load(untrained).preprocessing
  net = network(Mean(), given)
  encoder = Encoder(net, {'encoder': {}}, {'encoder': {}}, given)
  labels = np.where(np.arange(80) < 76, arrays['y_train'], -1)
  made = byoljax.classify(
    arrays['x_train'], labels, from_=encoder, head='knn', workdir=tmp_path / 'c', settings=QUICK
  )
  assert len(made.answers) == 4
  again = classifier.load(tmp_path / 'c', module=Mean())
  expected = made.classifier.predict(arrays['x_test'])
  np.testing.assert_array_equal(again.predict(arrays['x_test']), expected)


def test_files_of_any_size(made, tmp_path):
  pytest.importorskip('tensorflow', reason='files need TensorFlow')
  for number, size in enumerate(((20, 12), (12, 31))):
    Image.fromarray(np.full((*size, 3), (220, 40, 40), np.uint8)).save(tmp_path / f'{number}.png')
  (tmp_path / '2.png').write_bytes(b'nothing')
  chances = made.predict([tmp_path / f'{number}.png' for number in range(3)])
  assert np.isnan(chances[2]).all() and made(tmp_path) == ['red', 'red', '']


def test_missing_labels_are_no_class(arrays):
  for missing in ([np.nan, None, ''], [-1, np.int64(-1), np.float64(-1)], [b'', -1, None]):
    labels = np.array(['a', b'b', *missing] * 16, object)
    made = classification._of_objects(arrays['x_train'], labels, None, None, '')
    assert made.train.class_names == ('a', 'b') and made.rest.size == 48


def test_files_may_be_paths_and_their_classes_numbers(untrained, tmp_path):
  for number in range(5):
    pixels = np.full((12, 12, 3), 40 * number, np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{number}.png')
  config = config_lib.load(f'{cli.recipes_directory()}/classify.py', [])
  config = config.copy_and_resolve_references()
  labels = {tmp_path / '0.png': 0, '1.png': 1, '2.png': -1, '3.png': None, '4.png': b'1'}
  given = classify.Given(byoljax.load(untrained), 12, None, {})
  _, _, made = classification._of_files(config, tmp_path, labels, given, tmp_path.parent / 'home')
  assert made.train.class_names == ('0', '1') and made.train.size == 3 and made.rest.size == 2


def test_one_image_is_no_set_of_gray_ones(made):
  with pytest.raises(ConfigError, match=r'of one image, give image\[None\]'):
    made.predict(np.zeros((40, 50, 3), np.uint8))


@pytest.mark.parametrize(
  'labels',
  [
    np.array([0.0, 1.0, -1.0, np.nan]),
    [0, 1, None, -1],
    [0, np.int64(1), np.nan, -1.0],
    np.array([0.0, 1, '', None], object),
  ],
)
def test_whole_numbers_of_any_type_are_numbers(arrays, labels):
  given = {'test': arrays['x_test'][:4], 'test_labels': labels}
  made = classification._of_objects(arrays['x_train'][:4], labels, range_='', **given)
  assert made.train.class_names == made.test.class_names == ('0', '1') and made.rest.size == 2
  assert list(made.test.labels) == [0, 1, -1, -1]
  assert classification._whole_numbers([True, False]) == [True, False], 'these are names'


@pytest.mark.parametrize(
  ('named', 'sentence'),
  [
    ({'from_': 'nowhere'}, "'nowhere' does not exist"),
    ({'from_': 5}, 'from_ of type int is no encoder'),
    ({'labels': None}, 'no labels of two classes'),
    ({'labels': ['a'] * 80}, 'no labels of two classes'),
    ({'head': 'tree'}, "unknown head 'tree'"),
    ({'labels': ['a', 'b'] * 40, 'test': 1, 'test_labels': ['c']}, "class 'c' is none of the"),
    ({'test': np.zeros((2, 12, 12, 3), np.uint8)}, 'test images have no labels'),
    (
      {'test': np.zeros((2, 12, 12, 3), np.uint8), 'test_labels': [0, 3]},
      'test images have the classes 0, 1, 2, 3, the labelled images 0, 1, 2',
    ),
    ({'test_labels': [0, 1]}, 'belong to test images: give test='),
    ({'images': '.', 'labels': None, 'test': 1}, 'are those of its test split'),
    ({'images': 'nowhere', 'labels': None}, "'nowhere' is neither a folder"),
    ({'images': '.', 'labels': [1, 2]}, 'labels of a folder are a table'),
    ({'settings': {'classify.lambdas': (0.0,)}}, 'must be above 0'),
    ({'settings': {'classify.k': (0, 5)}}, r'k=\(0, 5\) at least 1'),
    ({'settings': {'classify.lamdas': 1}}, "did you mean 'classify.lambdas'"),
  ],
)
def test_mistakes_are_one_sentence(named, sentence, untrained, arrays, tmp_path):
  given = {'images': arrays['x_train'], 'labels': arrays['y_train'], 'from_': untrained} | named
  with pytest.raises(ConfigError, match=sentence):
    byoljax.classify(given.pop('images'), workdir=tmp_path / 'out', **given)
  assert not (tmp_path / 'out').exists()
