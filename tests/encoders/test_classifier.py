"""Classifiers that evaluations leave: written, found, read, and the same as what was evaluated."""

import json
import pickle
import shutil

import numpy as np
import pytest

from byoljax import cli
from byoljax.config import ConfigError
from byoljax.encoders import classifier, teachers
from byoljax.encoders.classifier import FILE, FOLDER
from byoljax.ops import readouts

QUICK = {
  'knn': (),
  'logistic': ('--logistic.lambdas=(0.1,1.0)',),
  'svm': ('--svm.costs=(0.5,)',),
  'few-labels': ('--few_labels.shots=(5,)', '--few_labels.shares=()', '--few_labels.draws=2'),
}


def queries(npz):
  with np.load(npz) as stored:
    return stored['x_test'], stored['y_test']


def require_same_as_the_result(home, npz, top1):
  """Loads what lies there and compares its answers about the test images with an accuracy."""
  made = classifier.load(home)
  images, labels = queries(npz)
  chances = np.asarray(made.predict(images))
  assert chances.shape == (len(images), 3) and made.classes == ('0', '1', '2')
  np.testing.assert_allclose(chances.sum(1), 1.0, atol=1e-5)
  assert np.mean(chances.argmax(1) == labels) == pytest.approx(top1)
  counts = np.loadtxt(made_at(home) / 'confusion.csv', delimiter=',', skiprows=1)[:, 1:]
  assert counts.sum() == len(images) and np.trace(counts) / len(images) == pytest.approx(top1)
  return made


def made_at(home):
  return classifier.find(home).parent


def test_probabilities_are_those_at_the_temperature():
  readout = readouts.Linear(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
  made = classifier.Classifier(None, readout, ('a', 'b'), 4.0, {}, None)
  (found,) = np.asarray(made.chances(np.array([[4.0, 0.0]], np.float32)))
  np.testing.assert_allclose(found, np.array([np.e, 1.0]) / (np.e + 1.0), rtol=1e-5)


@pytest.mark.parametrize('command', list(QUICK))
def test_evaluations_of_features_leave_their_classifier(command, untrained, npz, tmp_path, capsys):
  assert cli.run([command, str(untrained), f'--workdir={tmp_path}', *QUICK[command]]) == 0
  assert f'classifier  {tmp_path / FOLDER}' in capsys.readouterr().out
  result = json.loads((tmp_path / 'result.json').read_text())['result']
  top1 = result.get('top1')
  if top1 is None:  # The first of two draws, of which the result has mean and deviation.
    (row,) = result['rows']
    draws = [row['top1'] + sign * row['top1_sd'] / 2**0.5 for sign in (-1, 1)]
    images, labels = queries(npz)
    own = np.mean(np.asarray(classifier.load(tmp_path).predict(images)).argmax(1) == labels)
    assert own == pytest.approx(draws[0]) or own == pytest.approx(draws[1])
    top1 = own
  made = require_same_as_the_result(tmp_path, npz, top1)
  assert made.temperature == result['calibration']['temperature']
  assert made.protocol['result']['calibration']['ece'] <= 1
  again = pickle.loads(pickle.dumps(made))
  images = queries(npz)[0]
  np.testing.assert_array_equal(again.predict(images), made.predict(images))
  if command == 'few-labels':  # Support vector machines of few images leave no classifier.
    again = f'--workdir={shutil.copytree(tmp_path, tmp_path / "again")}'
    options = ('--few_labels.classifier=svm', '--few_labels.shots=(5,)', '--few_labels.draws=2')
    assert cli.run([command, str(untrained), again, *options]) == 0
    assert not (tmp_path / 'again' / FOLDER).exists()
  if command in ('knn', 'svm'):
    with pytest.raises(ConfigError, match='a teacher is a linear one'):
      teachers.load(str(tmp_path))
    return
  logits = np.asarray(teachers.load(str(tmp_path))(images)) / made.temperature
  chances = np.exp(logits - logits.max(1, keepdims=True))
  # Features in float32, 1e-6 off, times a classifier of weights up to a few tens.
  np.testing.assert_allclose(
    chances / chances.sum(1, keepdims=True), made.predict(images), atol=1e-4
  )


def test_it_can_be_moved_and_outlives_the_run(untrained, npz, tmp_path):
  run = shutil.copytree(untrained, tmp_path / 'run')
  assert cli.run(['knn', str(run)]) == 0
  assert cli.run(['knn', str(run), '--network=pixels']) == 0
  assert classifier.find(run).parent.name.startswith('knn-online'), 'baselines come last'
  assert len(classifier.every(run)) == 2
  moved = shutil.move(classifier.find(run), tmp_path / 'elsewhere')
  pixels = classifier.find(run)
  assert pixels.parent.name.startswith('knn-pixels')
  images = queries(npz)[0]
  assert classifier.load(run).encoder.dim == 12 * 12 * 3
  shutil.rmtree(run)
  made = classifier.load(moved)
  before = np.asarray(made.predict(images))
  # Written over itself there is one set of weights, and it is the same.
  classifier.save(made, moved)
  assert len(list(moved.glob('*.npz'))) == 1 and not list(moved.glob('*.tmp'))
  np.testing.assert_array_equal(classifier.load(moved).predict(images), before)


def test_what_is_no_classifier_is_said_in_a_sentence(tmp_path, untrained):
  for path, sentence in (
    (tmp_path, 'it holds none'),
    (tmp_path / 'nowhere', 'there is no such directory'),
    (untrained, 'byoljax classify'),
  ):
    with pytest.raises(ConfigError, match=sentence):
      classifier.load(path)
  (tmp_path / FILE).write_text('{}')
  with pytest.raises(ConfigError, match='holds no classifier that can be read'):
    classifier.load(tmp_path)


class TestReadouts:
  def test_neighbors_vote_as_in_the_evaluation(self):
    """Log of shares, written down here in float64 from the definition."""
    rng = np.random.default_rng(0)
    bank, labels, x = rng.normal(size=(30, 4)), rng.integers(0, 3, 30), rng.normal(size=(5, 4))
    made = readouts.neighbors(bank, labels, classes=4, k=7, temperature=0.2)
    found = np.exp(readouts.logits_of(made, x.astype(np.float32)))
    cosine = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (
      bank / np.linalg.norm(bank, axis=1, keepdims=True)
    ).T
    for row, own in enumerate(cosine):
      near = np.argsort(-own)[:7]
      votes = np.full(4, 1 / 4)
      np.add.at(votes, labels[near], np.exp((own[near] - own.max()) / 0.2))
      # Float32 cosines, 1e-7 off, in an exponent times 5.
      np.testing.assert_allclose(found[row], votes / votes.sum(), atol=1e-5)

  def test_linear_of_unit_length(self):
    kernel, bias = np.eye(2, dtype=np.float32), np.array([0.0, 1.0], np.float32)
    x = np.array([[3.0, 4.0]], np.float32)
    assert readouts.logits_of(readouts.Linear(kernel, bias), x).tolist() == [[3.0, 5.0]]
    scaled = readouts.logits_of(readouts.Linear(kernel, bias, unit=True), x)
    np.testing.assert_allclose(scaled, [[0.6, 1.8]], atol=1e-5)
