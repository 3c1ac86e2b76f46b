"""Detectors as a protocol: what boxes may be, and training and testing whatever the batch."""

import dataclasses
import json

import jax
import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax.config import ConfigError
from byoljax.data.fields import Field
from byoljax.data.sources import arrays
from byoljax.encoders import detector
from byoljax.encoders.encoder import Preprocessing, random_encoder
from byoljax.methods.supervised import detection
from byoljax.protocols import detect, found_boxes
from byoljax.protocols.extraction import EvalData
from byoljax.report import boxes as boxes_lib
from byoljax.tasks import detect as detect_task
from byoljax.train.record import Logging
from configs.detect import PROTOCOLS

BOXES = Field('boxes', 'boxes', 2, dtype='float32')


def squares(count, seed):
  """Bright and dark squares on gray; every fifth image has none."""
  rng = np.random.default_rng(seed)
  images = np.full((count, 32, 32, 3), 128, np.uint8)
  boxes = np.tile(np.array([0, 0, 0, 0, -1], np.float32), (count, 2, 1))
  for row in range(count):
    if row % 5 == 4:
      continue
    side, kind = int(rng.integers(8, 16)), int(rng.integers(2))
    top, left = rng.integers(0, 32 - side, 2)
    images[row, top : top + side, left : left + side] = (20, 235)[kind]
    boxes[row, 0] = (top / 32, left / 32, (top + side) / 32, (left + side) / 32, kind)
  return arrays.from_arrays(images, None, name='squares', class_names=(), fields={BOXES: boxes})


def with_box(*row):
  boxes = np.tile(np.array([0, 0, 0, 0, -1], np.float32), (3, 2, 1))
  boxes[1, 1] = row
  return arrays.from_arrays(np.zeros((3, 8, 8, 3), np.uint8), None, name='some',
                            fields={BOXES: boxes})  # fmt: skip


@pytest.mark.parametrize(
  'row', [(0, 0, 1.5, 1, 0), (0.5, 0, 0.5, 1, 0), (0, np.nan, 1, 1, 0), (0, 0, 1, 1, 0.5)]
)
def test_what_is_no_box_is_named(row):
  source = with_box(*row)
  with pytest.raises(ConfigError, match=r'some\[1\] has the box .*, but a box is \(y_min'):
    detect.class_names(source, source)


def test_classes_are_those_of_the_boxes():
  source = with_box(0, 0, 1, 1, 3)
  assert detect.class_names(source, source) == ('0', '1', '2', '3')
  named = dataclasses.replace(
    source, fields=(source.fields[0], dataclasses.replace(BOXES, names=('a', 'b')))
  )
  with pytest.raises(ConfigError, match='has a box of class 3, but there are 2 classes'):
    detect.class_names(named, named)
  nothing = with_box(0, 0, 1, 1, -1)
  with pytest.raises(ConfigError, match='no box in any of its 3 images'):
    detect.class_names(nothing, nothing)
  for pair in ((source, nothing), (nothing, source)):
    with pytest.raises(ConfigError, match='no box in any of its 3 images'):
      detect.class_names(*pair)


def test_boxes_of_training_and_test_images_have_the_same_classes():
  """Annotations of each may number their own: a class would be tested as another one."""
  source = with_box(0, 0, 1, 1, 1)
  cats, dogs = (
    dataclasses.replace(source, fields=(source.fields[0], dataclasses.replace(BOXES, names=names)))
    for names in (('cat', 'dog'), ('ant', 'dog'))
  )
  assert detect.class_names(cats, cats) == ('cat', 'dog')
  for pair, said in (
    ((cats, dogs), 'cat, dog, but .* ant, dog'),
    ((cats, source), 'but .* numbers'),
  ):
    with pytest.raises(ConfigError, match=said):
      detect.class_names(*pair)


def protocol(**changes):
  fields = dict(PROTOCOLS['small'])
  fields['optim'] = fields['optim'] | {'warmup': '0 epochs'}
  return detect.DetectProtocol(**(fields | changes))


@pytest.mark.slow
def test_squares_are_found_whatever_the_batch():
  train, test = squares(160, 0), squares(40, 1)
  encoder = random_encoder({'name': 'small'}, Preprocessing((0.5,) * 3, (0.25,) * 3, 32), 0)
  data = EvalData(train, test, 32, (0.5,) * 3, (0.25,) * 3, batch_size=16)
  short = protocol(length='160 steps', batch_size=32)
  trained = detect.fit(encoder, data, ('dark', 'bright'), short, logging=Logging())
  assert trained.result['ap50'] > 0.8 and trained.result['ap50_voc'] > 0.8
  run = detect.make_run(encoder, data, 2, short, Logging())
  state = run.layout.place(run.create())
  found = [detect.detections(run, state, test, data._replace(batch_size=b)) for b in (8, 16)]
  for row in range(40):
    np.testing.assert_allclose(found[0][row], found[1][row], atol=1e-4)


def test_a_stored_detector_finds_the_same(tmp_path):
  encoder = random_encoder({'name': 'small'}, Preprocessing((0.5,) * 3, (0.25,) * 3, 32), 0)
  settings = detection.detector_of(PROTOCOLS['small']['detector'])
  model = detector.DetectorModel(encoder.fields, encoder.preprocessing, settings, {}, {},
                                 ('dark', 'bright'), 'stretch', {'result': 1})  # fmt: skip
  params, bn = model.stages.whole.init(jax.random.key(0), encoder.preprocessing.example())
  model = dataclasses.replace(model, params=params, bn=bn)
  detector.save(model, tmp_path / 'online' / 'detector')
  again = detector.load(tmp_path)
  assert again.classes == model.classes and again.detector == model.detector
  assert again.fit == 'stretch'
  photos = tmp_path / 'photos'
  photos.mkdir()
  images = squares(3, 5).read(np.arange(3))[0]
  for number, image in enumerate(images):
    Image.fromarray(np.repeat(image, 2, axis=1)).save(photos / f'{number}.png')
  (photos / 'broken.png').write_bytes(b'none')
  out, sheet = tmp_path / 'boxes.json', tmp_path / 'sheet.png'
  arguments = ['predict', str(tmp_path), str(photos), f'--out={out}', f'--sheet={sheet}']
  assert cli.run(arguments) == 1, 'an image cannot be read'
  entries = json.loads(out.read_text())
  assert [(each['file'], each['height'], each['width']) for each in entries] == [
    (f'{number}.png', 32, 64) for number in range(3)
  ]
  found = model.predict(images)
  for rows, entry in zip(found, entries, strict=True):
    wanted = boxes_lib.boxes_of(rows)
    assert len(wanted) == len(entry['boxes']) > 0
    best, (top, left, bottom, right) = entry['boxes'][0], wanted[0].corners
    assert best['class'] == model.classes[wanted[0].kind]
    sides = [best[side] for side in ('y_min', 'x_min', 'y_max', 'x_max')]
    # Sprites are stretched back to the same pixels but for their interpolation.
    np.testing.assert_allclose(sides, [top * 32, left * 64, bottom * 32, right * 64], atol=1.5)
  assert Image.open(sheet).size[0] > 160
  # Weak boxes stand in the table, not on the sheet.
  assert max(box['score'] for entry in entries for box in entry['boxes']) < 0.5
  drawn = np.asarray(Image.open(sheet).convert('RGB'))[22:100, 6:150]
  assert not any((drawn == color).all(-1).any() for color in boxes_lib._COLORS[:2])
  csv = tmp_path / 'boxes.csv'
  boxes_lib.write_table(csv, [('a.png', (10, 20), boxes_lib.boxes_of(rows[:1]))], model.classes)
  header, line = csv.read_text().splitlines()
  assert header == ','.join(boxes_lib.COLUMNS) and line.startswith(f'a.png,{best["class"]},')


def test_boxes_of_squares_come_back_to_their_images(monkeypatch):
  """A detector that finds a fixed box in the square tells it in fractions of the image."""
  images = np.zeros((2, 16, 32, 3), np.uint8)
  source = arrays.from_arrays(images, None, name='wide', class_names=())
  in_square = np.array([[0.25, 0.5, 0.75, 1, 0, 0.9], [0.6, 0, 0.9, 1, 1, 0.8]], np.float32)
  found = found_boxes.restored({0: in_square, 1: in_square}, source, 'pad')
  # The image is the upper half: what lies below it is gone, what reaches beyond is cut off.
  due = np.array([[0.5, 0.5, 1, 1, 0, 0.9], [0, 0, 0, 0, -1, 0.8]], np.float32)
  np.testing.assert_allclose(found[1], due, atol=1e-6)
  assert found_boxes.restored({0: in_square}, source, 'stretch')[0] is in_square
  assert detect.pixels(found[0], (16, 32)).boxes.tolist() == [[8, 16, 16, 32]]
  with pytest.raises(ConfigError, match="unknown detect.fit 'crop'"):
    encoder = random_encoder({'name': 'small'}, Preprocessing((0.5,) * 3, (0.25,) * 3, 32), 0)
    data = EvalData(source, source, 32, (0.5,) * 3, (0.25,) * 3, batch_size=16)
    detect.make_run(encoder, data, 2, protocol(fit='crop'), Logging())


def test_scores_that_only_one_start_has_are_a_dash():
  """No detector found what counts for all of them, or there is nothing of a size."""
  text = detect_task.format_results(
    {'online': {'frozen': False, 'ap': 0.5}, 'random': {'frozen': False, 'ap50': 0.25}}
  )
  assert 'AP50' in text and 'AP75' not in text and '50.0%' in text and '25.0%' in text


def test_no_detector_is_a_sentence(tmp_path):
  with pytest.raises(ConfigError, match='byoljax detect` makes one'):
    detector.load(tmp_path)
