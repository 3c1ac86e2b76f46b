"""Alignment and uniformity of a run's h, z and p on the hypersphere."""

from typing import TYPE_CHECKING

import numpy as np

from byoljax.config import Config, ConfigError, user_errors
from byoljax.report import by_tap
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.data.augment.views import ViewSpec


def run(config: Config, invocation: Invocation) -> int:
  """Alignment and uniformity of a run's h, z and p; see `evals.hypersphere`."""
  from byoljax.evals import hypersphere
  from byoljax.protocols import tap_features

  alpha, t = config.hypersphere.alpha, config.hypersphere.t
  with user_errors('hypersphere'):
    hypersphere.check(alpha=alpha, t=t)
  encoder, taps, source, directory = tap_features.load_outputs(
    config.pretrained, config.network, config.taps
  )
  home = evaluation.result_directory('hypersphere', config, directory, invocation)
  data = evaluation.images_of(config, source, home)
  say(f'hypersphere of {directory} ({config.network} network) on {data.test.name}')
  clean, _ = tap_features.of_images(encoder, taps, data.test, data)
  first, second = tap_features.of_views(
    encoder, taps, _views(source), data, config.hypersphere.seed
  )
  rows = []
  for tap in taps:
    with user_errors('hypersphere'):
      rows.append(
        {
          'tap': tap,
          'alignment': hypersphere.alignment(first[tap], second[tap], alpha),
          'uniformity': np.mean(
            [hypersphere.uniformity(x[tap], t) for x in (first, second)]
          ).item(),
          'uniformity_clean': hypersphere.uniformity(clean[tap], t),
        }
      )
  result = {'rows': rows, 'alpha': alpha, 't': t, 'images': len(next(iter(first.values())))}
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(by_tap.format_rows('hypersphere', rows))
  say(
    f'alignment 0 ... {2**alpha:g}, lower: views of an image agree; uniformity 0 ... {-4 * t:g}, '
    f'lower: images are spread out, {-2 * t:g} = evenly in many dimensions'
  )
  say(f'result  {home / "result.json"}')
  return 0


def _views(pretraining: Config) -> 'tuple[ViewSpec, ...]':
  """How a run augments its images.

  Raises:
    ConfigError: it does not say.
  """
  from byoljax.train import assemble

  if not pretraining.get('views'):
    raise ConfigError('this run has no views: weights of another library do not say how they were '
                      'trained, and there is no augmentation to align.')  # fmt: skip
  with user_errors('config.views'):
    return assemble.view_specs(pretraining)


COMMAND = Command(
  'hypersphere',
  'measure alignment and uniformity of the features',
  run,
  task='hypersphere',
  recipe='taps:hypersphere',
  field='pretrained',
)
