"""From a folder and few labels to answers: classify, predict, and the classifier's export."""

import csv
import json
import os
import pathlib
import re
import shutil

import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.encoders import classifier

QUICK = ('--classify.lambdas=(0.1,1.0)', '--classify.k=(1,5)')


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """36 photographs of three colors, of which a table names 15; a broken one among the others."""
  home = tmp_path_factory.mktemp('photos') / 'photos'
  home.mkdir()
  rng, table = np.random.default_rng(0), ['file,class']
  for color, name in enumerate(('red', 'green', 'blue')):
    for number in range(12):
      pixels = rng.integers(0, 100, (16, 20, 3), dtype=np.uint8)
      pixels[:, :, color] += 120
      Image.fromarray(pixels).save(home / f'{name}{number}.png')
      if number < 5:
        table.append(f'{name}{number}.png,{name}')
  (home / 'broken.png').write_bytes(b'nothing')
  (home.parent / 'labels.csv').write_text('\n'.join(table))
  return home


def rows_of(file):
  with open(file, encoding='utf-8') as opened:
    return {row['file']: row for row in csv.DictReader(opened)}


def test_few_labels_become_answers_for_all_others(photos, untrained, tmp_path, capsys):
  pytest.importorskip('tensorflow', reason='folders need TensorFlow')
  home = tmp_path / 'out'
  command = ['classify', str(photos), f'--labels={photos.parent / "labels.csv"}',
             f'--from={untrained}', f'--workdir={home}', *QUICK]  # fmt: skip
  assert cli.run(command) == 1, 'one file cannot be read'
  shown = capsys.readouterr().out
  assert '15 labelled images of 3 classes, 22 others' in shown and 'broken.png' in shown
  assert 'largest class' in shown and '1 of 22 images cannot be read' in shown
  rows = rows_of(home / 'predictions.csv')
  assert len(rows) == 22 and rows['broken.png']['note'].startswith('unreadable')
  own = [row['class'] == re.match('[a-z]+', name)[0] for name, row in rows.items()]
  assert np.sum(own) > 0.8 * 21, 'colors are told apart by an untrained network'
  for page in ('sheet.html', 'mistakes.html'):
    assert '<figure' in (home / page).read_text()
  result = json.loads((home / 'result.json').read_text())['result']
  assert result['test_examples'] == 15 and result['calibration']['images'] == 15

  # The same classifier says the same of the same photographs, wherever they lie.
  new = tmp_path / 'new'
  new.mkdir()
  shutil.copy(photos / 'red11.png', new / 'a.png')
  out, sheet = tmp_path / 'p.csv', tmp_path / 's.html'
  assert cli.run(['predict', str(home), str(new), f'--out={out}', f'--sheet={sheet}']) == 0
  (row,) = rows_of(out).values()
  assert row['file'] == 'a.png' and row['class'] == rows['red11.png']['class']
  assert row['p1'] == rows['red11.png']['p1'] and '<figure' in sheet.read_text()
  assert cli.run(['predict', str(home), str(new), f'--out={out}', '--abstain=1']) == 0
  (row,) = rows_of(out).values()
  assert (row['class'], row['note']) == ('', 'abstained') and row['top1'] == 'red'


def test_arrays_need_no_tensorflow(untrained, npz, tmp_path, capsys, monkeypatch):
  """Labels and a test split are in the file; `RUN` then stands for its newest classifier."""
  run = shutil.copytree(untrained, tmp_path / 'run')
  assert cli.run(['classify', str(npz), f'--from={run}', '--head=logistic', *QUICK]) == 0
  (made,) = classifier.every(run)
  older = shutil.copytree(made, run / 'evals' / 'older' / 'classifier')
  os.utime(older / classifier.FILE, (0, 0))
  capsys.readouterr()
  out = tmp_path / 'p.csv'
  monkeypatch.setenv('HOME', str(tmp_path))
  assert cli.run(['predict', '~/run', str(npz), '--out=~/p.csv']) == 0
  shown = capsys.readouterr().out
  assert 'evals/classify-online-0-tiny/classifier (the newest of 2;' in shown
  with np.load(npz) as stored:
    labels = stored['y_test']
    chances = np.asarray(classifier.load(run).predict(stored['x_test']))
  found = [int(row['class']) for row in rows_of(out).values()]
  result = json.loads(next(run.glob('evals/*/result.json')).read_text())['result']
  assert np.mean(found == labels) == pytest.approx(result['top1']) and result['top1'] > 0.6
  np.testing.assert_array_equal(found, chances.argmax(1))


def test_a_directory_holds_one_result(untrained, npz, tmp_path, monkeypatch):
  """Folders of one name do not share it, and what another classifier has said goes."""
  run = shutil.copytree(untrained, tmp_path / 'run')
  files = [tmp_path / name / 'tiny.npz' for name in 'ab']
  for file in files:
    file.parent.mkdir()
    shutil.copy(npz, file)
    assert cli.run(['classify', str(file), f'--from={run}', '--head=knn', *QUICK]) == 0
  first, second = sorted(path.parent for path in classifier.every(run))
  assert second.name.startswith(f'{first.name}-') and (second / 'mistakes.html').exists()
  for name in ('predictions.csv', 'sheet.html'):
    (first / name).write_text('of images that had no label then')
  monkeypatch.chdir(tmp_path)
  assert cli.run(['classify', 'a/tiny.npz', f'--from={run}', '--head=knn', *QUICK]) == 0
  monkeypatch.chdir(tmp_path / 'a')
  assert cli.run(['classify', 'tiny.npz', f'--from={run}', '--head=knn', *QUICK]) == 0
  assert len(classifier.every(run)) == 2
  assert not (first / 'predictions.csv').exists() and not (first / 'sheet.html').exists()


def test_the_export_of_a_classifier(untrained, npz, tmp_path, capsys):
  from jax import export
  from safetensors.numpy import load_file

  home = tmp_path / 'evaluation'
  assert cli.run(['knn', str(untrained), f'--workdir={home}']) == 0
  made, folder = classifier.load(home), tmp_path / 'export'
  assert cli.run(['export', str(home), f'--workdir={folder}', '--network=target']) == 2
  assert 'is a classifier and has one network: leave it out' in capsys.readouterr().err
  assert cli.run(['export', str(home), f'--workdir={folder}']) == 0
  names = {path.name for path in folder.iterdir()}
  assert {'encoder.stablehlo', 'classifier.stablehlo', 'model.safetensors', 'classes.json'} < names
  with np.load(npz) as stored:
    images = stored['x_test'][:5]
  run = export.deserialize(bytearray((folder / 'classifier.stablehlo').read_bytes()))
  # Another compilation of the same float32 network: five times the difference seen, 2e-7.
  np.testing.assert_allclose(run.call(images), made.predict(images), atol=1e-6)
  arrays = load_file(folder / 'classifier.safetensors')
  assert arrays['bank'].shape == made.readout.bank.shape and arrays['labels'].max() == 2
  assert json.loads((folder / 'classes.json').read_text())['classes'] == ['0', '1', '2']
  assert '3 classes, by 80 nearest neighbors' in (folder / 'README.md').read_text()


def test_the_flag_for_fine_tuning():
  parsed = cli.parse(['classify', 'photos', '--from=runs/x', '--finetune', '--labels=l.csv'])
  config = config_lib.load(parsed.options.config, parsed.overrides)
  assert (config.head, config['from'], config.data.dir) == ('finetune', 'runs/x', 'photos')
  config = config_lib.load(cli.parse(['classify', 'photos']).options.config)
  assert config.head == 'auto'


@pytest.mark.slow
def test_fine_tuning(photos, untrained, tmp_path):
  pytest.importorskip('tensorflow', reason='folders need TensorFlow')
  command = ['classify:smoke', str(photos), f'--labels={photos.parent / "labels.csv"}',
             f'--from={untrained}', f'--workdir={tmp_path}', '--finetune']  # fmt: skip
  assert cli.run(command) == 1
  assert len(rows_of(tmp_path / 'predictions.csv')) == 22
  before, after = (
    np.asarray(encoder.params['encoder']['stem_conv']['kernel'])
    for encoder in (classifier.load(tmp_path).encoder, _encoder(untrained))
  )
  assert not np.array_equal(before, after), 'the encoder has moved'


def _encoder(run):
  from byoljax.encoders import load

  return load.load(run)


@pytest.mark.parametrize(
  ('flags', 'sentence'),
  [
    ([], 'there is no folder or image'),
    (['--abstain=2'], 'is a probability'),
    (['--batch_size=0'], '--batch_size=0 must be at least 1'),
    (['--out=t.csv', '--sheet=./t.csv'], '--out and --sheet are both ./t.csv'),
    (['--sheet=predictions.csv'], 'are both predictions.csv'),
    (['--out=PHOTOS/a.png'], 'would become one of the images of'),
    (['--sheet=PHOTOS'], 'is or would become one of'),
    (['--out=no/t.csv'], "--out=no/t.csv: there is no folder 'no'"),
    (['--sheet=no/t.html'], "--sheet=no/t.html: there is no folder 'no'"),
    (['--out=.'], '--out=. is a folder: name a file in it'),
  ],
)
def test_mistakes_of_predict(flags, sentence, tmp_path, untrained, capsys):
  home = tmp_path / 'evaluation'
  if not flags:
    assert cli.run(['knn', str(untrained), f'--workdir={home}']) == 0
  photos = str(tmp_path / 'nowhere')
  flags = [flag.replace('PHOTOS', photos) for flag in flags]
  assert cli.run(['predict', str(home), photos, *flags]) == 2
  error = capsys.readouterr().err
  assert sentence in error and 'Traceback' not in error
  assert not pathlib.Path('predictions.csv').exists()


@pytest.mark.parametrize(
  ('flags', 'sentence'),
  [
    ([], '--from is missing'),
    (['--from=RUN', '--head=tree'], "unknown head 'tree'"),
    (['--from=RUN', '--abstain=2'], 'is a probability'),
    (['--from=RUN', '--labels=nowhere'], 'neither a table of labels nor a folder'),
    (['--from=RUN', '--labels=ONE'], 'fewer than two classes'),
    (['--from=RUN', '--labels=OTHER'], "such as 'x.png'"),
    (['--from=RUN'], 'has no labels: give --labels'),
    (['--from=RUN', '--workdir=INSIDE'], 'lies within the images'),
    (['--from=RUN', '--finetune', '--tap=stage1'], "tap='stage1' is read by heads on frozen"),
    (
      ['--from=RUN', '--labels=TABLE', '--finetune', '--finetune.head_layers=1'],
      'has no projector',
    ),
    (['--from=RUN', '--labels=TABLE', '--finetune', '--finetune.crops=3'], 'crops=3 is neither'),
  ],
)
def test_mistakes_of_classify(flags, sentence, photos, untrained, tmp_path, capsys):
  (tmp_path / 'one.csv').write_text('red0.png,red\nred1.png,red\n')
  (tmp_path / 'other.csv').write_text('red0.png,red\nx.png,blue\n')
  places = {'RUN': untrained, 'ONE': tmp_path / 'one.csv', 'OTHER': tmp_path / 'other.csv',
            'TABLE': photos.parent / 'labels.csv', 'INSIDE': photos / 'out'}  # fmt: skip
  for name, place in places.items():
    flags = [flag.replace(f'={name}', f'={place}') for flag in flags]
  home = [] if '--workdir' in ''.join(flags) else [f'--workdir={tmp_path / "out"}']
  assert cli.run(['classify', str(photos), *home, *flags]) == 2
  error = capsys.readouterr().err
  assert sentence in error and 'Traceback' not in error
  assert not (tmp_path / 'out').exists() and not (photos / 'out').exists()
