"""Classifiers on an encoder: linear protocols by name, fine-tuning, few labels, transfer."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.data.sources import arrays
from byoljax.encoders import classifier, load
from byoljax.encoders.encoder import Encoder
from byoljax.protocols import finetune, labelled, training
from byoljax.protocols.extraction import EvalData
from byoljax.tasks import transfer
from byoljax.tasks.cells import Opened
from byoljax.train.record import Logging
from byoljax.workdir import checkpoint
from configs import finetune as finetune_config
from configs import linear as linear_config
from configs import transfer as transfer_config

QUIET = ('--log.tensorboard=false',)
SHORT = (
  '--finetune.length=10 epochs', '--finetune.batch_size=16', '--finetune.crop_scale=(0.5,1.0)',
  '--finetune.sweep.base_lr=(0.0,0.1)', '--finetune.sweep.length=()', *QUIET,
)  # fmt: skip


def stem_of(params):
  return np.asarray(params['encoder']['stem_conv']['kernel'])


def result_of(folder):
  return json.loads((folder / 'result.json').read_text())['result']


@pytest.fixture(scope='module')
def with_projector(finished, tmp_path_factory):
  """A run whose projector has layers of 16 and 8; tests may write into it."""
  return shutil.copytree(finished, tmp_path_factory.mktemp('runs') / 'byol')


class TestLinearProtocols:
  def test_rates_of_the_literature(self):
    """Peak learning rates of the heads, at each protocol's own batch, from the papers."""
    from byoljax.optim.schedules import peak_lr

    peaks = {}
    for name in linear_config.PROTOCOLS:
      fields = linear_config.get_config(name).linear
      assert fields.protocol == name
      rates = peak_lr(tuple(fields.base_lr), fields.batch_size, fields.lr_scaling)
      peaks[name] = (max(rates), fields.length)
    assert peaks['byol_paper'] == (pytest.approx(1.6), '80 epochs')
    assert peaks['byol_repo'] == (pytest.approx(3.2), '80 epochs')
    assert peaks['simclr'] == (pytest.approx(1.6), '90 epochs')
    assert peaks['moco'] == (30.0, '100 epochs')
    assert peaks['moco_v3'] == (pytest.approx(0.4), '90 epochs')
    assert peaks['moco_v3_vit'] == (pytest.approx(12.0), '90 epochs')
    assert peaks['simsiam'] == (pytest.approx(1.6), '90 epochs')
    assert peaks['barlow_twins'] == (0.3, '100 epochs')
    assert peaks['vicreg'] == (0.02, '100 epochs')
    assert peaks['swav'] == (0.3, '100 epochs')
    assert peaks['dino'] == (pytest.approx(0.004), '100 epochs')
    assert peaks['mae'] == (pytest.approx(6.4), '90 epochs')

  @pytest.mark.slow
  @pytest.mark.parametrize('name', ['mae', 'moco'])
  def test_another_papers_probe_runs(self, name, untrained, npz, tmp_path, capsys):
    rate = {'moco': '(1.0,)', 'mae': '(100.0,)'}[name]
    command = [f'linear:{name}', str(untrained), f'--workdir={tmp_path}', *QUIET,
               '--linear.length=12 epochs', '--linear.batch_size=16', f'--linear.base_lr={rate}',
               '--linear.crop_scale=(0.5,1.0)', '--linear.warmup=0 epochs']  # fmt: skip
    assert cli.run(command) == 0
    result = result_of(tmp_path)
    assert result['top1'] > 0.6, 'colors are linearly separable'
    with np.load(npz) as stored:
      found = np.asarray(classifier.load(tmp_path).predict(stored['x_test'])).argmax(1)
      # MAE's probe normalizes features, which its classifier has taken into its weights.
      assert np.mean(found == stored['y_test']) == pytest.approx(result['top1'])
    # A single rate: nothing is held out.
    assert result['train_examples'] == 80 and 'held_out_top1' not in result
    assert 'the only one' in capsys.readouterr().out

  @pytest.mark.slow
  def test_on_the_projection(self, with_projector, capsys):
    run = with_projector
    command = ['linear', str(run), *QUIET, '--linear.length=2 epochs', '--linear.batch_size=16']
    assert cli.run([*command, '--tap=projection']) == 0
    assert 'online network, projection' in capsys.readouterr().out
    (home,) = (run / 'evals').glob('linear-*')
    kernel = checkpoint.restore_subtrees(
      checkpoint.checkpoint_directory(home), [('params', 'head')]
    )[('params', 'head')]['features']['kernel']
    assert home.name.endswith('-projection') and kernel.shape[1] == 8, 'the projector puts out 8'
    assert cli.run([*command, '--tap=projektion']) == 2
    assert "did you mean 'projection'" in capsys.readouterr().err


class TestFinetune:
  @pytest.mark.parametrize('scratch', [False, pytest.param(True, marks=pytest.mark.slow)])
  def test_beside_scratch_with_a_sweep_and_resumed(self, scratch, untrained, npz, tmp_path, capsys):
    command = ['finetune', str(untrained), f'--workdir={tmp_path}', '--labels=10 per class', *SHORT,
               f'--scratch={scratch}']  # fmt: skip
    assert cli.run(command) == 0
    result = result_of(tmp_path)
    assert set(result) == {'online', 'random'} if scratch else {'online'}
    own = result['online']
    assert own['train_examples'] == 30 and own['test_examples'] == 24
    assert own['top1'] > 0.6, 'colors are learned'
    tried = {entry['base_lr']: entry['held_out'] for entry in own['sweep']}
    assert tried[0.1] > tried[0.0] and own['base_lr'] == 0.1, 'the better rate was taken'
    shown = capsys.readouterr().out
    assert ('from scratch' in shown) == scratch
    assert 'top-1' not in shown.split('result')[0].split('\n')[0]
    made = classifier.load(tmp_path)
    with np.load(npz) as stored:
      found = np.asarray(made.predict(stored['x_test'])).argmax(1)
      assert np.mean(found == stored['y_test']) == pytest.approx(own['top1'])
    before, _, _ = load.load_encoder(str(untrained), 'online')
    assert not np.allclose(stem_of(before.params), stem_of(made.encoder.params), atol=1e-3)
    assert own['calibration']['images'] == 6, 'a fifth was held out'
    # Started again, nothing is trained: the sweep's scores and the last checkpoint are there.
    before = (tmp_path / 'online' / 'metrics.jsonl').read_text()
    assert cli.run(command) == 0
    assert result_of(tmp_path)['online'] == own
    assert (tmp_path / 'online' / 'metrics.jsonl').read_text() == before

  @pytest.mark.slow
  def test_with_a_rate_of_zero_for_the_encoder_it_keeps_its_weights(self, untrained):
    from byoljax.data.sources import datasets
    from byoljax.protocols import extraction

    encoder, config, _ = load.load_encoder(str(untrained), 'online')
    train = datasets.load('npz', 'train', data_dir=config.data.dir)
    data = extraction.EvalData(train, train, 12, (0.5,) * 3, (0.25,) * 3, 16)
    fields = finetune_config.get_config('small,smoke').finetune.to_dict()
    protocol = finetune.FinetuneProtocol(**fields)
    choice = protocol.choices[0]
    changed = dataclasses.replace(protocol, head_lr=1e12)
    rate = choice._replace(base_lr=choice.base_lr / 1e12, weight_decay=0.0)
    run = finetune._run(encoder, data, train, changed, rate, Logging(), None)
    state = training.train(run, None, Logging())
    before, after = stem_of(encoder.params), stem_of(state.params)
    np.testing.assert_allclose(before, after.reshape(-1, *before.shape)[0], atol=1e-6)
    start, end = (jax.tree.leaves(s.params['head']) for s in (run.create(), state))
    assert any(not np.allclose(a, b, atol=1e-3) for a, b in zip(start, end, strict=True))

  @pytest.mark.slow
  def test_from_the_first_layer_of_the_head(self, with_projector, npz, tmp_path, capsys):
    command = ['finetune', str(with_projector), '--labels=10 per class', *SHORT,
               '--finetune.sweep.base_lr=()', '--finetune.length=2 steps',
               '--finetune.head_layers=1']  # fmt: skip
    assert cli.run([*command, f'--workdir={tmp_path / "out"}']) == 0
    step = checkpoint.checkpoint_directory(tmp_path / 'out' / 'online')
    stored = checkpoint.restore_subtrees(step, [('params',)])[('params',)]
    assert set(stored) == {'encoder', 'projector', 'head'}
    assert set(stored['projector']) == {'linear1', 'bn1'}
    assert stored['head']['linear1']['kernel'].shape[0] == 16, 'the projector is 16 wide'
    made = classifier.load(tmp_path / 'out')
    with np.load(npz) as images:
      found = np.asarray(made.predict(images['x_test'])).argmax(1)
      own = result_of(tmp_path / 'out')['online']
      assert np.mean(found == images['y_test']) == pytest.approx(own['top1'])
    assert made.encoder.dim == 16
    answers = ['classify:smoke', str(npz), f'--from={with_projector}', '--finetune']
    assert cli.run([*answers, '--finetune.head_layers=1', f'--workdir={tmp_path / "answers"}']) == 0
    assert classifier.load(tmp_path / 'answers').encoder.dim == 16
    capsys.readouterr()
    assert cli.run([*command[:-3], '--finetune.head_layers=2']) == 2
    assert 'projector of 2 plain layers; give at most 1' in capsys.readouterr().err

  def test_protocols_exist(self):
    for name in finetune_config.PROTOCOLS:
      config = finetune_config.get_config(name)
      assert config.finetune.protocol == name
    assert len(finetune.FinetuneProtocol(**finetune_config.PROTOCOLS['byol']).choices) == 10
    assert len(finetune.FinetuneProtocol(**finetune_config.PROTOCOLS['transfer']).choices) == 56
    assert len(finetune.FinetuneProtocol(**finetune_config.PROTOCOLS['swav']).choices) == 1
    low, *_, high = finetune_config.PROTOCOLS['transfer']['sweep']['base_lr']
    assert (low, high) == (1e-4, 0.1)

  @pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
      (['--finetune.head_lr=-1'], 'finetune.head_lr=-1 must be above 0'),
      (['--labels=0 %'], "labels='0 %' must be above 0 %"),
      (['--labels=500 per class'], 'give 1 to'),
      (['--labels=some'], 'neither a share'),
      (['--finetune.held_out=1.5'], 'held_out=1.5 must be between'),
      (['--finetune.length=soon'], "finetune.length='soon' is not a duration"),
      (['--finetune.batch_norm=none'], "unknown finetune.batch_norm 'none'"),
      (['--network=random', '--finetune.head_layers=1'], 'has no projector'),
      (['--finetune.head_layers=1'], 'has no projector'),
    ],
  )
  def test_mistakes_are_one_sentence(self, flags, sentence, untrained, tmp_path, capsys):
    command = ['finetune', str(untrained), f'--workdir={tmp_path}', *SHORT, *flags]
    assert cli.run(command) == 2
    error = capsys.readouterr().err
    assert sentence in error and 'Traceback' not in error
    assert not (tmp_path / 'result.json').exists()
    assert not (tmp_path / 'config.json').exists(), 'the corrected command would be refused'


class TestLabelled:
  LABELS = np.repeat([0, 1, 2, -1], [100, 30, 6, 50])
  SOURCE = arrays.from_arrays(np.zeros((186, 4, 4, 3), np.uint8), LABELS)

  def test_parts(self):
    def counts(text, seed=0):
      return np.bincount(labelled.part(self.SOURCE, text, seed).labels).tolist()

    assert counts('100 %') == [100, 30, 6]
    assert counts('10 %') == counts('10%') == [10, 3, 1]
    assert counts('6 per class') == [6, 6, 6]
    one, other, again = (labelled.part(self.SOURCE, '10 %', s).fingerprint for s in (0, 1, 0))
    assert one == again != other

  def test_a_seed_is_no_negative_number(self):
    with pytest.raises(config_lib.ConfigError, match='split_seed=-1 must be at least 0'):
      labelled.part(self.SOURCE, '10 %', -1)

  def test_files(self, tmp_path):
    file = tmp_path / 'part.txt'
    file.write_text('3\n120\n03\n\n')
    assert labelled.part(self.SOURCE, str(file), 0).labels.tolist() == [0, 1]
    file.write_text('n01/arrays[3]\n')
    named = labelled.part(self.SOURCE, str(file), 0)
    assert named.locate(0) == 'arrays[3]'
    for text, sentence in (
      ('999\n', 'names example 999'),
      ('dog.jpg\n3\n', "2 images not in arrays, such as 'dog.jpg'"),
      ('\n', 'is empty'),
      ('150\n', '1 image of arrays without a label'),
      ('²\n', "image not in arrays, such as '²'"),
    ):
      file.write_text(text)
      with pytest.raises(config_lib.ConfigError, match=sentence):
        labelled.part(self.SOURCE, str(file), 0)

  def test_files_of_one_name(self, tmp_path):
    """As in folders whose images are numbered in every class."""
    names = ['in/cat/1.png', 'in/dog/1.png', 'in/dog/2.png', 'on/cat/1.png']
    source = dataclasses.replace(self.SOURCE.subset(np.arange(4)), locate=names.__getitem__)
    file = tmp_path / 'part.txt'
    for text, rows in (
      ('dog/1.png\n2.png', [1, 2]),
      ('2.png\ndog/2.png\nin/dog/2.png', [2]),
      ('/elsewhere/dog/2.png\n/elsewhere/on/cat/1.png', [2, 3]),
    ):
      file.write_text(text)
      assert labelled.positions(source, str(file), 0).tolist() == rows
    for text, sentence in (
      ('1.png', 'may be 3 images of .*: give the folder'),
      ('cat/1.png', 'may be 2 images of .*: give the folder'),
      ('cow/1.png', "1 image not in arrays, such as 'cow/1.png'"),
      ('cat/2.png', "1 image not in arrays, such as 'cat/2.png'"),
    ):
      file.write_text(text)
      with pytest.raises(config_lib.ConfigError, match=sentence):
        labelled.part(source, str(file), 0)

  def test_what_is_no_number_of_images(self):
    with pytest.raises(config_lib.ConfigError, match="labels='²' is neither a share"):
      labelled.part(self.SOURCE, '²', 0)

  @pytest.mark.parametrize('text', ['3', '3 per class'])
  def test_several_labels_each_cannot_be_counted_by_class(self, text):
    marks = np.eye(3, dtype=np.int32)[[0, 1, 2, 0]]
    source = arrays.from_arrays(np.zeros((4, 4, 4, 3), np.uint8), marks)
    assert labelled.part(source, '50 %', 0).size == 2
    with pytest.raises(config_lib.ConfigError, match=f"labels='{text}' counts .* several labels"):
      labelled.part(source, text, 0)

  def test_classes_without_images_ask_for_nothing(self):
    source = arrays.from_arrays(np.zeros((4, 4, 4, 3), np.uint8), np.array([0, 0, 2, 2]))
    assert labelled.part(source, '1 per class', 0).size == 2
    with pytest.raises(config_lib.ConfigError, match='give 1 to 2'):
      labelled.part(source, '3 per class', 0)


@pytest.fixture(scope='module')
def several(tmp_path_factory):
  """Images with several labels each: which color channels are bright."""
  rng = np.random.default_rng(1)
  members = {}
  for split, count in (('train', 96), ('test', 48)):
    marks = rng.integers(0, 2, (count, 3)).astype(np.int32)
    images = rng.integers(0, 60, (count, 12, 12, 3), dtype=np.uint8)
    images += (marks[:, None, None] * 150).astype(np.uint8)
    marks[:4, 0] = -1
    members |= {f'x_{split}': images, f'y_{split}': marks}
  path = tmp_path_factory.mktemp('several') / 'several.npz'
  np.savez(path, **members)
  return path


@pytest.mark.parametrize(
  'protocols', [('logistic',), pytest.param(('logistic', 'finetune'), marks=pytest.mark.slow)]
)
def test_transfer_table(protocols, untrained, several, npz, tmp_path, capsys):
  command = ['transfer', str(untrained), f'--workdir={tmp_path}',
             f'--datasets=npz={npz},npz={several},tfds:beans,npz=nowhere.npz',
             f'--protocols={",".join(protocols)}', '--logistic.lambdas=(0.01,1.0)',
             '--finetune.length=6 epochs', '--finetune.batch_size=16',
             '--finetune.sweep.base_lr=(0.1,)', '--finetune.sweep.weight_decay=(0.0,)',
             *QUIET]  # fmt: skip
  assert cli.run(command) == 0
  shown = capsys.readouterr().out
  result = result_of(tmp_path)
  first, second = result['rows']
  assert (first['metric'], second['metric']) == ('top-1', '11-point mAP')
  columns = [f'{p}, {n}' for p in protocols for n in ('online', 'random')]
  assert list(first)[2:] == [*columns, 'largest class']
  assert first['logistic, online'] > 0.7
  assert min(second[f'{protocol}, online'] for protocol in protocols) > 0.7
  assert set(result['skipped']) == {'tfds:beans', 'npz=nowhere.npz'}
  assert 'download_and_prepare' in result['skipped']['tfds:beans'][protocols[-1]]
  assert 'there is no file' in shown
  markdown, spreadsheet = ((tmp_path / f'table.{end}').read_text() for end in ('md', 'csv'))
  assert markdown.count('|') > 15 and spreadsheet.startswith('data set,metric')
  assert markdown.startswith('| top-1') and '\n\n| 11-point mAP' in markdown
  # Started again, nothing is computed.
  cells = sorted(tmp_path.glob('*/*/result.json'))
  assert len(cells) == 4 * len(protocols)
  stamps = [cell.stat().st_mtime_ns for cell in cells]
  assert cli.run(command) == 0
  assert [cell.stat().st_mtime_ns for cell in cells] == stamps
  # Another protocol computes anew.
  assert cli.run([*command, '--logistic.lambdas=(0.5,)', '--protocols=logistic']) == 0
  assert [cell.stat().st_mtime_ns for cell in cells] == stamps, 'what was there stays'
  added = set(tmp_path.glob('*/*/result.json')) - set(cells)
  assert len(added) == 4 and all('logistic' in cell.parent.name for cell in added)


def test_a_cell_belongs_to_the_weights_that_it_was_computed_from(tmp_path):
  """Two runs may be given one directory."""
  config, source = transfer_config.get_config(), TestLabelled.SOURCE
  data = EvalData(source, source, 4, (0.5,) * 3, (0.25,) * 3, 16)
  opened = Opened(data, data, 'top1', {})
  one, other, again = (
    transfer._asked(config, 'knn', opened, Encoder(None, {'w': np.full(3, x)}, {}, None))
    for x in (0.0, 1.0, 0.0)
  )
  transfer._store(tmp_path, {'top1': 0.5}, one)
  assert transfer._stored(tmp_path, again) == {'top1': 0.5}
  assert transfer._stored(tmp_path, other) is None


def test_transfer_mistakes(untrained, tmp_path, capsys):
  base = ['transfer', str(untrained), f'--workdir={tmp_path}']
  for flags, sentence in (
    (['--protocols=magic'], "unknown protocol 'magic'"),
    (['--datasets=()'], 'config.datasets is empty'),
    (['--protocols=()'], 'config.protocols is empty'),
    (['--datasets=cifr10'], "did you mean 'cifar10'"),
  ):
    assert cli.run([*base, *flags]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.out + captured.err


def test_the_twelve_are_known():
  from byoljax.data.sources import datasets

  metrics = {name: datasets.facts(name).metric for name in transfer_config.TWELVE}
  assert metrics['voc2007'] == 'map11' and metrics['food101'] == 'top1'
  assert {n for n, m in metrics.items() if m == 'mean_per_class'} == {
    'pets', 'caltech101', 'flowers102'
  }  # fmt: skip


@pytest.mark.parametrize(
  ('command', 'sentence'),
  [
    (['knn'], 'k-NN needs one'),
    (['linear'], 'linear evaluation needs one'),
    (['layers'], 'k-NN needs one'),
    (['layers', '--probe=linear'], 'linear evaluation needs one'),
  ],
)
def test_several_labels_per_image_need_a_protocol_that_can(
  command, sentence, untrained, several, tmp_path, capsys
):
  name, *flags = command
  home = tmp_path / 'out'
  flags += [f'--workdir={home}', '--data.name=npz', f'--data.dir={several}']
  assert cli.run([name, str(untrained), *flags]) == 2
  assert f'several labels per image: {sentence}' in capsys.readouterr().err
  assert not home.exists()
