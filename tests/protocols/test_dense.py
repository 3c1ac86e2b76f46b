"""Segmentation and depth on an encoder: training, whole images of any size, what is kept."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax.config import ConfigError
from byoljax.data.fields import Field
from byoljax.data.sources import arrays, folder
from byoljax.encoders import dense as dense_lib
from byoljax.encoders import load
from byoljax.encoders.dense import DenseModel, Design
from byoljax.encoders.encoder import Preprocessing
from byoljax.methods.supervised.dense import HeadOptions
from byoljax.protocols import dense, dense_data, dense_evaluation
from byoljax.protocols.dense_protocol import KINDS, DenseProtocol
from byoljax.tasks import dense as dense_task
from byoljax.train.record import Logging
from byoljax.workdir import stored_config
from configs import depth as depth_config
from configs import segment as segment_config

CLASSES = 3


def scenes(count, seed=0):
  """Squares of three colors on 12 pixels; depth is the color's number, 0 at the left border."""
  rng = np.random.default_rng(seed)
  mask = np.kron(rng.integers(0, CLASSES, (count, 3, 3)), np.ones((4, 4), int)).astype(np.uint8)
  images = rng.integers(0, 60, (count, 12, 12, 3), np.uint8)
  images += (np.eye(CLASSES, dtype=np.uint8) * 180)[mask]
  depth = mask + np.float32(1)
  mask[:, 0] = 255
  depth[:, :, 0] = 0
  return images, mask, depth


@pytest.fixture(scope='module')
def scene_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('scenes') / 'scenes.npz'
  found = {}
  for seed, (split, count) in enumerate((('train', 48), ('test', 14))):
    found |= dict(zip((f'x_{split}', f'mask_{split}', f'depth_{split}'), scenes(count, seed),
                      strict=True))  # fmt: skip
  np.savez(path, **found)
  return path


def opened(kind, scene_file, **changes):
  reading = {'image_size': 12, 'mean': (0.5,) * 3, 'std': (0.25,) * 3, 'batch_size': 8}
  return dense_data.open_data(kind, 'npz', str(scene_file), **(reading | changes))


def protocol(config, **changes):
  fields = config.PROTOCOLS['small'] | {'length': '6 epochs', 'batch_size': 16, 'sweep': ()}
  fields['optim'] = fields['optim'] | {'base_lr': 0.02}
  return DenseProtocol(**(fields | changes))


@pytest.fixture(scope='module')
def masks(scene_file):
  return opened('segmentation', scene_file)


@pytest.fixture(scope='module')
def encoder(untrained):
  return load.load_encoder(str(untrained), 'online')[0]


def test_a_frozen_encoder_keeps_every_bit_and_its_head_learns(masks, encoder):
  data = masks
  assert data.classes == ('0', '1', '2')
  trained = dense.fit(
    'segmentation', encoder, data, protocol(segment_config), 'frozen', logging=Logging()
  )
  for tree in ('params', 'bn'):
    before, after = getattr(encoder, tree)['encoder'], getattr(trained.model, tree)['encoder']
    jax.tree.map(np.testing.assert_array_equal, before, after)
  # Chance is a third; what a 2 x 2 map of random features says of twelve pixels is more.
  assert trained.result['pixel_accuracy'] > 0.5 and set(trained.result['iou']) == set('012')
  assert trained.result['train_examples'] == 48 and trained.result['steps'] == 18


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['segmentation', 'depth'])
def test_fine_tuning_moves_the_encoder_and_is_better(kind, scene_file, encoder):
  data = opened(kind, scene_file)
  config = segment_config if kind == 'segmentation' else depth_config
  results = {}
  for mode in ('frozen', 'finetuned'):
    trained = dense.fit(kind, encoder, data, protocol(config, length='20 epochs'), mode,
                        logging=Logging())  # fmt: skip
    results[mode] = trained.result
  moved = jax.tree.map(
    lambda a, b: np.any(a != b), encoder.params['encoder'], trained.model.params['encoder']
  )
  assert all(jax.tree.leaves(moved))
  if kind == 'depth':
    assert 1 < data.mean_depth < 3 and results['finetuned']['rms'] < results['frozen']['rms']
  else:
    assert results['finetuned']['mean_iou'] > results['frozen']['mean_iou']


@functools.cache
def tiny(kind='skips', channels=CLASSES, window=0, reduce=1, multiple=16):
  """A network as it is before training, its head's numbers of the size of those of training."""
  design = Design(
    (('name', 'small'),),
    Preprocessing((0.5,) * 3, (0.25,) * 3, 16),
    HeadOptions(kind, up_channels=(4,)),
    channels,
    window,
    multiple,
    reduce,
  )
  params, bn = design.net.init(jax.random.key(0), design.preprocessing.example())
  keys = iter(jax.random.split(jax.random.key(1), 99))
  params['head'] = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), params['head'])
  return design, params, bn


SHAPES = [(9, 20), (16, 16), (16, 32), (12, 30), (5, 29)]


@pytest.fixture
def photos(tmp_path):
  """Images of uneven sizes with masks, one of them without any label."""
  for name in ('images', 'masks'):
    (tmp_path / name).mkdir()
  rng = np.random.default_rng(0)
  for number, size in enumerate(SHAPES):
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(
      tmp_path / 'images' / f'{number}.png'
    )
    mask = rng.integers(0, CLASSES, size, np.uint8)
    mask[0] = 255
    mask[:] = 255 if number == 3 else mask
    Image.fromarray(mask).save(tmp_path / 'masks' / f'{number}.png')
  return tmp_path


def test_scores_are_those_of_all_pixels_whatever_the_batch(photos):
  """Against each image alone at its own size, counted in NumPy; of four devices, too."""
  source = folder.from_folder(photos, 'train', fields=(Field('masks', 'mask'),))
  design, params, bn = tiny()
  found = [
    dense_evaluation.evaluate('segmentation', design, params, bn, source, 'masks', size)
    for size in (1, 16)
  ]
  assert found[0] == found[1]
  model = DenseModel('segmentation', design, params, bn, ('a', 'b', 'c'), {})
  counts = np.zeros((CLASSES, CLASSES), int)
  for row in range(source.size):
    image, mask = (np.asarray(Image.open(photos / name / f'{row}.png'))
                   for name in ('images', 'masks'))  # fmt: skip
    predicted = model.predict(image[None])[0]
    assert predicted.shape == mask.shape
    known = mask < CLASSES
    np.add.at(counts, (mask[known], predicted[known]), 1)
  union = counts.sum(0) + counts.sum(1) - np.diag(counts)
  (scores, ious) = found[0]
  np.testing.assert_allclose(ious, np.diag(counts) / union)
  assert scores['mean_iou'] == pytest.approx(np.mean(np.diag(counts) / union))
  assert scores['pixel_accuracy'] == pytest.approx(np.trace(counts) / counts.sum())
  each = dict(dense_evaluation.predictions(design, params, bn, source, 4))
  assert [each[row].shape for row in range(len(SHAPES))] == SHAPES
  np.testing.assert_array_equal(each[len(SHAPES) - 1], predicted)


@pytest.mark.parametrize(
  ('extent', 'starts'), [(12, [0]), (13, [0, 1]), (20, [0, 8]), (21, [0, 4, 9]), (28, [0, 8, 16])]
)
def test_windows_follow_by_at_most_two_thirds_of_their_side(extent, starts):
  np.testing.assert_array_equal(dense_lib._starts(extent, 12), starts)


def test_windows_are_averaged_and_cover_everything():
  design, params, bn = tiny()
  windows = dataclasses.replace(design, window=16)
  x = jax.random.uniform(jax.random.key(2), (2, 16, 40, 3))
  inside = jnp.ones(x.shape[:3], bool)
  made = jax.jit(windows.outputs)(params, bn, x, inside)
  total, count = np.zeros((2, 16, 40, CLASSES)), np.zeros((1, 1, 40, 1))
  starts = dense_lib._starts(40, 16)
  assert starts[0] == 0 and starts[-1] == 24 and np.diff(starts).max() <= 16 * 2 / 3 + 1
  for left in starts:
    part = slice(left, left + 16)
    total[:, :, part] += design.outputs(params, bn, x[:, :, part], inside[:, :, part])
    count[:, :, part] += 1
  # Sums of up to three float32 of size 10 in another program.
  np.testing.assert_allclose(made, total / count, rtol=1e-4, atol=1e-4)
  assert windows.sides == (16, 16)


def test_a_reduced_image_is_seen_smaller_and_answered_at_its_own_size():
  design, params, bn = tiny(reduce=2)
  assert design.sides == (32, 2)
  x = jax.random.uniform(jax.random.key(2), (1, 32, 16, 3))
  made = design.outputs(params, bn, x, jnp.ones((1, 32, 16), bool))
  assert made.shape == (1, 32, 16, CLASSES)
  half = x.reshape(1, 16, 2, 8, 2, 3).mean((2, 4))
  small = dataclasses.replace(design, reduce=1)
  alike = small.outputs(params, bn, half, jnp.ones((1, 16, 8), bool))
  assert np.corrcoef(made[0, ::2, ::2].ravel(), alike.ravel())[0, 1] > 0.8


@pytest.mark.parametrize(('kind', 'classes'), [('segmentation', ('a', 'b', 'c')), ('depth', ())])
def test_a_model_is_kept_whole(kind, classes, tmp_path, capsys):
  design, params, bn = tiny('up' if kind == 'depth' else 'skips', len(classes) or 1)
  model = DenseModel(kind, design, params, bn, classes, {'result': {'rms': 1.0}})
  home = tmp_path / 'evals' / 'x' / 'online-frozen' / dense_lib.FOLDER
  dense_lib.save(model, home)
  again = dense_lib.load(tmp_path)
  # With the fields of encoders that this one lacks, as those of a file that is older than they.
  fields = tuple(sorted(stored_config.stored_encoder(dict(design.encoder)).items()))
  wanted = dataclasses.replace(design, encoder=fields)
  assert (again.kind, again.classes, again.design) == (kind, classes, wanted)
  images = np.random.default_rng(0).integers(0, 256, (2, 10, 13, 3), np.uint8)
  answer = again.predict(images)
  assert answer.shape == (2, 10, 13) and answer.dtype == (np.int32 if classes else np.float32)
  np.testing.assert_array_equal(answer, model.predict(images))
  for command, said in (
    (['predict', str(home), 'photos', '--abstain=0.5'], '--abstain=0.5 is for classes and boxes'),
    (['export', str(home.parent)], '`byoljax predict` and Python use it as it is'),
  ):
    assert cli.run(command) == 2 and said in capsys.readouterr().err
  dense_lib.save(dataclasses.replace(model, protocol={}), home)
  assert len(list(home.iterdir())) == 2
  (home / dense_lib.FILE).write_text('{}')
  with pytest.raises(ConfigError, match='holds no model that can be read'):
    dense_lib.load(home)
  with pytest.raises(ConfigError, match='no model of masks or depth'):
    dense_lib.load(tmp_path / 'nowhere')


def test_without_a_test_split_a_fifth_is_held_out_and_images_are_drawn(photos, capsys):
  data = dense_data.open_data(
    'segmentation', 'folder', str(photos), images=2, seed=1,
    image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=8,
  )  # fmt: skip
  assert (data.data.train.size, data.data.test.size, data.channels) == (2, 1, CLASSES)
  assert 'has no test split: 1 of its images' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('kind', 'changes', 'said'),
  [
    ('segmentation', {'images': 99}, r'images=99: there are 1 to 48'),
    ('segmentation', {'field': 'masks'}, "has no 'masks_train'"),
    ('segmentation', {'field': 'depth'}, 'masks must be whole numbers'),
  ],
)
def test_data_that_cannot_be_used_are_told(kind, changes, said, scene_file):
  with pytest.raises(ConfigError, match=said):
    opened(kind, scene_file, **changes)


def test_masks_that_number_no_classes_are_told():
  images = np.zeros((2, 4, 4, 3), np.uint8)
  for value, said in ((0, 'go up to 0'), (2000, 'go up to 2000'), (255, 'have no label in any')):
    masks = np.full((2, 4, 4), value, np.uint16)
    source = arrays.from_arrays(images, fields={Field('mask', 'mask'): masks})
    with pytest.raises(ConfigError, match=said):
      dense_data.numbered([source], 'mask')
  nothing = arrays.from_arrays(images, fields={Field('depth', 'map'): np.zeros((2, 4, 4))})
  with pytest.raises(ConfigError, match='no depth above 0 in 2 images'):
    dense_data.mean_depth(nothing, 'depth')


def test_masks_of_sets_with_known_classes_are_looked_through(tmp_path):
  """Pixels of other numbers would count for nothing, silently."""
  lists = tmp_path / 'ImageSets' / 'Segmentation'
  for part in (lists, tmp_path / 'JPEGImages', tmp_path / 'SegmentationClass'):
    part.mkdir(parents=True)
  for name, split in (('a', 'train'), ('b', 'val')):
    (lists / f'{split}.txt').write_text(name)
    Image.new('RGB', (3, 2)).save(tmp_path / 'JPEGImages' / f'{name}.jpg')

  def found(*numbers):
    for name, number in zip('ab', numbers, strict=True):
      Image.new('L', (3, 2), number).save(tmp_path / 'SegmentationClass' / f'{name}.png')
    return dense_data.open_data(
      'segmentation', 'voc_segmentation', str(tmp_path),
      image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=8,
    )  # fmt: skip

  assert found(0, 20).channels == 21
  with pytest.raises(ConfigError, match='test number classes up to 21, but 21 have a name'):
    found(0, 21)
  with pytest.raises(ConfigError, match='train have no label in any of its 1 image: '):
    found(255, 20)


def test_what_is_not_known_is_a_dash():
  row = {'start': 'online', 'mode': 'frozen', 'train_examples': 4, 'base_lr': 0.1}
  scores = {'mean_iou': None, 'pixel_accuracy': 0.5}
  table = dense_task.format_results(KINDS['segmentation'].results, [row | scores])
  first, *rest = table.splitlines()[-1].split()[-3:]
  assert first in ('-', '–') and rest == ['50.0%', '0.1']


def test_classes_are_those_of_training_and_test_images(tmp_path):
  """Also where training has not all of them; all must have a name, and some pixel be known."""
  images, masks, depths = scenes(4)
  path = tmp_path / 'scenes.npz'

  def written(mask, depth=depths):
    np.savez(path, x_train=images, mask_train=masks, depth_train=depths,
             x_test=images, mask_test=mask, depth_test=depth)  # fmt: skip
    return path

  more = np.where(masks == CLASSES - 1, CLASSES, masks).astype(np.uint8)
  assert opened('segmentation', written(more)).classes == ('0', '1', '2', '3')
  with pytest.raises(ConfigError, match='classes up to 3, but 3 have a name'):
    opened('segmentation', path, classes=('a', 'b', 'c'))
  with pytest.raises(ConfigError, match='classes up to 2, but 2 have a name'):
    opened('segmentation', path, classes=('a', 'b'))
  assert opened('segmentation', path, classes='abcd').classes == ('a', 'b', 'c', 'd')
  with pytest.raises(ConfigError, match='have no label in any of its 4 images'):
    opened('segmentation', written(np.full_like(masks, 255)))
  with pytest.raises(ConfigError, match='no depth .* is above 0'):
    opened('depth', written(masks, np.zeros_like(depths)))


def test_sizes_of_test_images_are_checked_before_training(masks, encoder):
  """AlexNet's kernels leave nothing of a small image that is not filled up."""
  data = masks._replace(data=masks.data._replace(image_size=64))
  alexnet = dataclasses.replace(encoder, fields={'name': 'alexnet', 'stem': 'imagenet'})
  with pytest.raises(ConfigError, match='segment: images of .* at 12 x 12 pixels: AlexNet .* 63'):
    dense.check(alexnet, data, protocol(segment_config, multiple=1), Logging(), 'segment')


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'head': 'fnc'}, "unknown segment.head 'fnc'.*did you mean 'fcn'"),
    ({'zoom': (2.0, 1.0)}, 'segment: zoom is .* must be .low, high.'),
    ({'reduce': 0}, 'segment.reduce=0 must be at least 1'),
    ({'output_stride': 16}, "dilates ResNets of ours, and this encoder is 'small'.*set it to 0"),
    ({'head': 'up', 'up_channels': (4,) * 9}, 'has 9 blocks'),
    ({'taps': ('stage7',)}, "unknown tap 'stage7'"),
    ({'length': 'soon'}, 'is not a duration'),
  ],
)
def test_a_protocol_that_does_not_fit_is_told_before_training(changes, said, masks, encoder):
  with pytest.raises(ConfigError, match=said):
    dense.check(encoder, masks, protocol(segment_config, **changes), Logging(), 'segment')


@pytest.mark.slow
@pytest.mark.parametrize('task', ['segment', 'depth'])
def test_the_command_leaves_a_table_models_and_pictures(task, scene_file, untrained, tmp_path):
  home = tmp_path / 'out'
  command = [f'{task}:small,smoke', str(untrained), '--data.name=npz', f'--data.dir={scene_file}',
             f'--workdir={home}', '--image_size=12', '--images=16', f'--{task}.sweep=(0.001,0.01)',
             f'--{task}.held_out=0.25', f'--{task}.batch_size=8']  # fmt: skip
  assert cli.run(command) == 0
  rows = json.loads((home / 'result.json').read_text())['result']['rows']
  assert [(row['start'], row['mode']) for row in rows] == [
    ('online', 'frozen'), ('online', 'finetuned'), ('random', 'frozen'), ('random', 'finetuned')
  ]  # fmt: skip
  assert all(len(row['sweep']) == 2 for row in rows)
  assert (home / 'predictions.png').stat().st_size > 500
  assert dense_lib.load(home).protocol['mode'] == 'finetuned'
  stamp = (home / 'online-frozen' / 'dense' / 'dense.json').read_text()
  assert cli.run(command) == 0  # Everything is there: nothing is trained again.
  assert json.loads((home / 'result.json').read_text())['result']['rows'] == rows
  assert json.loads(stamp)['protocol']['result']['steps'] == 4


@pytest.mark.slow
def test_a_tfds_set_with_masks_is_opened_by_its_name(tmp_path):
  """A tiny set like `oxford_iiit_pet`: images of uneven sizes, 'segmentation_mask' of 1 to 3."""
  pytest.importorskip('tensorflow_datasets')
  from byoljax.data.sources import tensorflow_import

  tfds = tensorflow_import.tensorflow_datasets()
  rng = np.random.default_rng(0)
  sizes = [(8, 12), (10, 9), (8, 12)]
  examples = [
    {
      'image': rng.integers(0, 256, (*size, 3), np.uint8),
      'segmentation_mask': rng.integers(1, 4, (*size, 1), np.uint8),
    }
    for size in sizes
  ]
  tfds.dataset_builders.store_as_tfds_dataset(
    name='tiny_pets',
    version='1.0.0',
    features=tfds.features.FeaturesDict(
      {
        name: tfds.features.Image(shape=(None, None, channels), encoding_format='png')
        for name, channels in (('image', 3), ('segmentation_mask', 1))
      }
    ),
    split_datasets={'train': list(enumerate(examples)), 'test': list(enumerate(examples[:2]))},
    data_dir=tmp_path,
    disable_shuffling=True,
  )
  data = dense_data.open_data(
    'segmentation', 'tfds:tiny_pets', str(tmp_path),
    image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=8,
  )  # fmt: skip
  assert (data.field, data.classes) == ('segmentation_mask', ('0', '1', '2', '3'))
  assert (data.data.train.size, data.data.test.size) == (3, 2)
  design, params, bn = tiny(channels=4)
  scores, ious = dense_evaluation.evaluate(
    'segmentation', design, params, bn, data.data.test, data.field, 8
  )
  assert 0 < scores['pixel_accuracy'] < 1 and len(ious) == 4
