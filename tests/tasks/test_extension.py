"""Runs that go on to another length: what is exact, what changes, what is refused."""

import json

import flax.linen as nn
import numpy as np
import pytest

import byoljax
from byoljax import cli, main
from byoljax.config import ConfigError
from byoljax.workdir import checkpoint, history
from tests.conftest import _runs_made_once

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
SETTINGS = {
  **{f'views.view{v}.{name}_prob': 0.0 for v in (1, 2) for name in ('jitter', 'gray', 'blur')},
  **{f'views.view{v}.size': 8 for v in (1, 2)},
  'views.view2.solarize_prob': 0.0,
  'evals.image_size': 8,
  'evals.knn.every': 'never',
  'method.projector': (8, 4),
  'method.predictor': (8, 4),
  'train.batch_size': 8,
  'optim.name': 'adamw',
  'optim.base_lr': 0.1,
  'optim.weight_decay': 0.1,
  'optim.schedule': 'wsd',
  'optim.weight_decay_end': 0.2,
  'checkpoint.every': 'at the end',
  'checkpoint.keep': 1,
  'log.tensorboard': False,
}


class Tiny(nn.Module):
  """A linear encoder of three colors."""

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(4)(x.mean((1, 2)))


def train(workdir, length, images=32, labels=2, settings=(), **words):
  return byoljax.pretrain(
    'byol:npz,smoke',
    data=IMAGES[:images],
    labels=np.arange(images) % labels,
    length=length,
    workdir=workdir,
    encoder=Tiny(),
    settings=SETTINGS | dict(settings),
    **words,
  )


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  """A finished run of 5 steps, extended to 10; beside it the one that was planned for 10.

  The last two are equal configurations, and share what is compiled.
  """
  with pytest.MonkeyPatch.context() as patch, _runs_made_once():
    from byoljax.report import curves, preview

    patch.setattr(preview, 'write_sheet', lambda *_, **__: None)
    patch.setattr(curves, 'plot_run', lambda *_, **__: 'curves.png')
    folder = tmp_path_factory.mktemp('extended')
    train(folder / 'run', '5 steps')
    (folder / 'before.json').write_text((folder / 'run' / 'config.json').read_text())
    train(folder / 'run', '10 steps', extend=True)
    train(folder / 'planned', '10 steps')
  return folder


def leaves(run, step):
  return json.loads((run / 'checkpoints' / str(step) / 'integrity' / 'metadata').read_text())[
    'leaves'
  ]


def test_extended_before_its_decay_it_is_the_run_that_was_planned_so(home):
  """Bit for bit, although the short one had finished: it keeps the checkpoint before its decay."""
  run = home / 'run'
  assert checkpoint.finished_steps(run) == [8, 10] == checkpoint.finished_steps(home / 'planned')
  assert leaves(run, 10) == leaves(home / 'planned', 10)
  assert leaves(run, 8) == leaves(home / 'planned', 8) != leaves(run, 10)
  log = (run / 'run.log').read_text()
  assert 'from step 4: 10 steps instead of 5' in log and 'Back to step 4, before the decay' in log
  assert 'constant up to step 8, then falling until step 10' in log
  assert 'It will be the run that was planned so from the start, bit for bit.' in log


def test_the_directory_remembers_what_it_was(home):
  run = home / 'run'
  before, now = (json.loads(p.read_text()) for p in (home / 'before.json', run / 'config.json'))
  assert now['facts'] == before['facts'] | {'total_steps': 10}
  assert now['extensions'] == [
    {
      'step': 4,
      'fields': {'train.length': '5 steps'},
      'facts': {
        name: before['facts'][name]
        for name in ('num_examples', 'num_classes', 'steps_per_epoch', 'total_steps')
      },
      'data_fingerprint': before['data_fingerprint'],
    }
  ]
  # The end of the short run is still one of this run's checkpoints, and can be read.
  assert [p.name for p in (run / history.EARLIER).iterdir()] == ['5']
  assert byoljax.load(run / history.EARLIER / '5')(IMAGES[:2]).shape == (2, 4)
  assert len(history.identities(run)) == 2
  assert history.identities(run)[0] == history.identities(home / 'planned')[0]


def test_without_the_word_it_is_refused_and_with_it_a_finished_one_is_left_alone(
  home, no_pictures, capsys
):
  with pytest.raises(ConfigError, match=r"'10 steps' -> '20 steps'\n.* --extend goes on"):
    train(home / 'run', '20 steps')
  before = (home / 'run' / 'config.json').read_bytes()
  train(home / 'run', '10 steps', extend=True)
  assert 'already complete (10 steps)' in capsys.readouterr().out
  assert (home / 'run' / 'config.json').read_bytes() == before


@pytest.mark.parametrize(
  ('length', 'more', 'message'),
  [
    ('20 steps', {'settings': {'seed': 1}}, 'other settings than .*\n  seed: 0 -> 1'),
    ('20 steps', {'settings': {'optim.momentum': 0.5}}, 'optim.momentum: 0.9 -> 0.5'),
    (
      '10 steps',
      {'settings': {'optim.decay': '1 steps'}},
      'is 10 steps, .* has done 10',
    ),
    ('20 steps', {'images': 40}, r'have changed .*\(32 then, 40 now\): add --new_images'),
    ('20 steps', {'labels': 3, 'new_images': True}, r'probe/.* is \[2\] and would .* \[3\]'),
    ('20 steps', {'extend': False, 'new_images': True}, '--new_images belongs to --extend'),
  ],
)
def test_what_cannot_be_is_said_before_anything_is_written(home, length, more, message):
  run = home / 'run'
  before = {path: path.stat().st_mtime_ns for path in run.rglob('*') if path.name != 'lock'}
  with pytest.raises(ConfigError, match=message):
    train(run, length, **{'extend': True} | more)
  assert before == {p: p.stat().st_mtime_ns for p in run.rglob('*') if p.name != 'lock'}


def test_there_has_to_be_a_run(tmp_path):
  with pytest.raises(ConfigError, match='holds no run to extend: leave out --extend'):
    train(tmp_path / 'none', '5 steps', extend=True)
  assert not (tmp_path / 'none').exists()


def test_another_schedule_and_new_images_go_on_from_the_end(home, no_pictures):
  """With a cosine that is planned anew; the rate of the next step is the new plan's."""
  run, cosine = home / 'planned', {'optim.schedule': 'cosine'}
  train(run, '12 steps', images=40, extend=True, new_images=True, settings=cosine)
  log = (run / 'run.log').read_text()
  assert '40 images instead of 32: an epoch has 5 steps now' in log
  assert 'a cosine over all 12 steps. Step 10 has' in log and 'saw other images' in log
  assert checkpoint.latest_finished(run) == 12
  rows = byoljax.open_run(run).rows
  expected = 0.5 * (1 + np.cos(np.pi * 9 / 10)) * 0.1 * 8 / 256
  np.testing.assert_allclose(rows[-1]['lr'], expected, rtol=1e-4)


def test_the_command_has_the_words(capsys):
  assert main.main([f'--config={cli.recipes_directory()}/knn.py', '--extend']) == 2
  assert "and task='knn' is none: leave them out." in capsys.readouterr().err
  options = cli.parse(['pretrain', 'byol', '--extend', '--new_images']).options
  assert options.extend and options.new_images
  assert not cli.parse(['pretrain', 'byol']).options.extend
