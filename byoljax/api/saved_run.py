"""`SavedRun`: a run's directory as an object, whoever trained it."""

from collections.abc import Mapping
import functools
import html
import json
import pathlib
from typing import TYPE_CHECKING, Any

from byoljax.api import session
from byoljax.config import Config, ConfigError, choose, path_of
from byoljax.report.table import html_table
from byoljax.tasks import COMMANDS, evaluation
from byoljax.workdir import run_dir, steps
from byoljax.workdir.run_dir import Invocation

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder

# Commands about a run that leave one result.
EVALUATIONS = tuple(
  command.name
  for command in COMMANDS.values()
  if command.field == 'pretrained' and command.name not in ('embed', 'export', 'transfer')
)


class SavedRun:
  """A run: its metrics, its encoder, its evaluations and its report, read from its directory.

  Args:
    directory: of the run.
    data: what has to be kept while the run's images are to be found; see `byoljax.pretrain`.

  Attributes:
    directory: of the run.
    config: its configuration.
  """

  def __init__(self, directory: str | pathlib.Path, data: Any = None):
    self.directory = pathlib.Path(directory)
    self.config: Config = run_dir.run_config(self.directory)
    self._kept = [data]

  def __repr__(self) -> str:
    return f"<run of {self._title()} in '{self.directory}', step {self.step:,}>"

  def _title(self) -> str:
    method = self.config.get('method', {}).get('name', 'another library')
    return f'{method}, {self.config.encoder.name} encoder, on {self.config.data.name}'

  @property
  def rows(self) -> list[dict[str, Any]]:
    """The rows of metrics, for `pandas.DataFrame(run.rows)`: 'step', and what was due then."""
    from byoljax.workdir import metrics

    return metrics.read(self.directory)

  @property
  def step(self) -> int:
    """Steps up to the newest checkpoint; 0 without any."""
    from byoljax.workdir import checkpoint

    return checkpoint.latest_finished(self.directory) or 0

  @property
  def results(self) -> dict[str, Any]:
    """The final table: encoder -> {'knn': ..., 'linear': ...}; {} without one of the last step."""
    from byoljax.report import evaluations

    final = evaluations.final(self.directory)
    return final.results if final.is_newest else {}

  @property
  def encoder(self) -> 'Encoder':
    """The trained encoder as a function of images; see `byoljax.load`."""
    step = self.step
    return _loaded(str(self.directory), step, steps.mark(self.directory, step))

  def evaluate(
    self,
    name: str = 'knn',
    data: Any = None,
    labels: Any = None,
    *,
    test: Any = None,
    test_labels: Any = None,
    workdir: str | pathlib.Path = '',
    settings: Mapping[str, Any] | None = None,
  ) -> dict[str, Any]:
    """Evaluates the encoder as the command `byoljax NAME` does, and leaves the result in the run.

    Args:
      name: 'knn', 'linear', 'logistic', 'finetune', ...; another paper's protocol behind a colon,
        'linear:simclr'.
      data: labelled images, as for `byoljax.pretrain`; None: those of the run.
      labels: of the images.
      test: test images; without any, evaluations cross-validate.
      test_labels: of the test images.
      workdir: where the result goes; '' is evals/<name>-... of the run.
      settings: dotted field of the evaluation's recipe -> value, {'network': 'target'}.

    Returns:
      The result: the same as in `result.json`.

    Raises:
      ConfigError: no such evaluation, data without labels, or whatever is wrong with a setting.
    """
    word, _, options = str(name).partition(':')
    command = COMMANDS[choose('evaluation', word, EVALUATIONS)]
    workdir = path_of('workdir', workdir)
    with session.working(f'{word}: working'):
      own = {'pretrained': str(self.directory)}
      config, path = session.evaluation(command, options, own, settings)
      range_ = self.config.data.range
      kept = session.name_data(config, data, labels, test, test_labels, range_=range_)
      self._kept.append(kept)
      session.require_heeded(config, settings)
      at = pathlib.Path(workdir) if workdir else self._place(command.task, config, path)
      command.run(config.lock(), Invocation(path, str(at)))
    return json.loads((at / 'result.json').read_text())['result']

  def _place(self, task: str, config: Config, recipe: str) -> pathlib.Path:
    from byoljax.workdir import checkpoint

    directory = checkpoint.checkpoint_directory(self.directory)
    return evaluation.result_directory(task, config, directory, Invocation(recipe, ''))

  def report(self) -> 'Report':
    """Writes `report.html` anew, with the evaluations that there are now; notebooks show it."""
    from byoljax.report import contents

    with session.working('report: working'):
      return Report(contents.write(self.directory))

  def _repr_html_(self) -> str:
    """What notebooks show: the last metrics and the final table."""
    from byoljax.report import facts

    last = self.rows[-1:] or [{}]
    shown = {'step': f'{self.step:,}'} | {n: f'{v:.4g}' for n, v in last[0].items() if n == 'loss'}
    parts = [f'<b>{html.escape(self._title())}</b> <code>{html.escape(str(self.directory))}</code>']
    parts.append(html_table([shown]))
    for title, table in facts.results(self.directory).items():
      parts.append(f'<p>{html.escape(title)}</p>{html_table(table)}')
    return '\n'.join(parts)


class Report:
  """A run's page.

  Attributes:
    path: the file.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path

  def __repr__(self) -> str:
    return f"<report '{self.path}'>"

  def _repr_html_(self) -> str:
    """The page within a frame: it brings its own styles and scripts, and loads nothing."""
    page = html.escape(self.path.read_text(encoding='utf-8'), quote=True)
    return f'<iframe srcdoc="{page}" style="width: 100%; height: 80vh; border: 0"></iframe>'


@functools.lru_cache(maxsize=4)
def _loaded(directory: str, step: int, mark: object) -> 'Encoder':
  del step, mark  # A longer run, or another one in its place, is read anew.
  from byoljax.encoders import load

  return load.load(directory)


def open_run(directory: str | pathlib.Path) -> SavedRun:
  """Opens a run's directory.

  Raises:
    ConfigError: there is no run.
  """
  home = pathlib.Path(path_of('directory', directory))
  if not (home / 'config.json').is_file():
    raise ConfigError(f"'{directory}' is no run's directory: it has no config.json.")
  return SavedRun(home)
