"""Whether a run's h, z and p have collapsed: spread, effective rank, dead dimensions, spectra."""

from byoljax.config import Config, user_errors
from byoljax.devices import hosts
from byoljax.report import by_tap
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation, say


def run(config: Config, invocation: Invocation) -> int:
  """Whether a run's h, z and p have collapsed, with the spectra; see `evals.spectrum`."""
  from byoljax.evals import spectrum
  from byoljax.protocols import tap_features

  encoder, taps, source, directory = tap_features.load_outputs(
    config.pretrained, config.network, config.taps
  )
  home = evaluation.result_directory('collapse', config, directory, invocation)
  data = evaluation.images_of(config, source, home)
  say(f'collapse of {directory} ({config.network} network) on {data.test.name}')
  found, _ = tap_features.of_images(encoder, taps, data.test, data)
  with user_errors('collapse'):
    measured = {tap: spectrum.measure(found[tap]) for tap in taps}
  rows = [{'tap': tap, 'verdict': spectrum.verdict(each)} | each for tap, each in measured.items()]
  sentence = spectrum.summary(measured)
  result = {'rows': rows, 'verdict': sentence}
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(by_tap.format_rows('collapse', rows))
  say(sentence)
  if hosts.is_first_process():
    by_tap.plot(measured, home / 'spectrum.png')
  say(f'spectrum  {home / "spectrum.png"}')
  say(f'result    {home / "result.json"}')
  return 0


COMMAND = Command(
  'collapse',
  'measure rank, spread and spectrum of the features',
  run,
  task='collapse',
  recipe='taps:collapse',
  field='pretrained',
)
