"""How long things take, in optimizer steps: durations such as '40 epochs', and the length of a run.

A duration is a number with a unit: '40 epochs', '500 steps', '1e6 examples' or, of a run, '10 %'.
"""

import math
import re
from typing import Any, NamedTuple

MOST_STEPS = 2**31 - 1
_UNITS = {
  'step': 'steps',
  'steps': 'steps',
  'epoch': 'epochs',
  'epochs': 'epochs',
  'ep': 'epochs',
  'example': 'examples',
  'examples': 'examples',
  '%': '%',
}


def duration_steps(
  field: str,
  text: str,
  *,
  steps_per_epoch: int,
  batch_size: int,
  total_steps: int | None = None,
  least: int = 0,
) -> int:
  """Converts a duration to a whole number of optimizer steps.

  Args:
    field: the field's name, for messages.
    text: '40 epochs', '500 steps', '1e6 examples' or, of a known total, '10 %'.
    steps_per_epoch: whole batches in one pass over the data.
    batch_size: global examples per step.
    total_steps: the run's length, needed for percentages.
    least: steps of a duration above 0 that rounds to fewer.

  Raises:
    ValueError: not a duration, negative, or a percentage where no total is known.

  Examples:
    >>> duration_steps('train.length', '40 epochs', steps_per_epoch=125, batch_size=64)
    5000
    >>> duration_steps('optim.warmup', '10 %', steps_per_epoch=125, batch_size=64, total_steps=5000)
    500
  """
  match = re.fullmatch(r'\s*([0-9.eE+-]+)\s*([a-z%]+)\s*', str(text))
  unit = _UNITS.get(match.group(2)) if match else None
  try:
    amount = float(match.group(1)) if match else math.nan
  except ValueError:
    amount = math.nan
  if unit is None or not math.isfinite(amount) or amount < 0 or (unit == '%' and not total_steps):
    units = 'steps, epochs or examples' + (', or in % of the run' if total_steps else '')
    raise ValueError(
      f"{field}='{text}' is not a duration: write a number in {units}, such as '10 epochs'."
    )
  per_unit = {
    'steps': 1.0,
    'epochs': float(steps_per_epoch),
    'examples': 1.0 / batch_size,
    '%': (total_steps or 0) / 100.0,
  }
  return max(least if amount else 0, round(amount * per_unit[unit]))


class Length(NamedTuple):
  """How long a run is: its durations in optimizer steps.

  Attributes:
    batch_size: examples per optimizer step, over all devices and micro-batches.
    steps_per_epoch: whole batches in one pass over the data.
    total_steps: optimizer steps of the whole run.
    steady_steps: steps after which whatever moves over the length of the run begins to (the rate's
      decay, tau, a weight decay that rises); 0 moves it over all of them.
  """

  batch_size: int
  steps_per_epoch: int
  total_steps: int
  steady_steps: int = 0

  def steps(self, field: str, text: str, *, least: int = 0) -> int:
    """The duration `text` of the field in optimizer steps; see `duration_steps`.

    Raises:
      ValueError: not a duration.
    """
    return duration_steps(
      field,
      text,
      steps_per_epoch=self.steps_per_epoch,
      batch_size=self.batch_size,
      total_steps=self.total_steps,
      least=least,
    )

  def every(self, field: str, text: str, *, may_be_never: bool = False) -> int:
    """Steps between two times of what happens again and again; 0: at the end only; -1: never.

    Args:
      field: the field's name, for messages.
      text: a duration, of a step at least, 'at the end' (as a duration of 0) or 'never'.
      may_be_never: whether that is allowed.

    Raises:
      ValueError: none of these.
    """
    word = ' '.join(str(text).split())
    if word == AT_THE_END:
      return 0
    if word == NEVER and may_be_never:
      return -1
    if word == NEVER:
      raise ValueError(f"{field}='{NEVER}' would leave nothing of the run: write '{AT_THE_END}'.")
    try:
      return self.steps(field, text, least=1)
    except ValueError as error:
      words = f"'{AT_THE_END}' or '{NEVER}'" if may_be_never else f"'{AT_THE_END}'"
      raise ValueError(f'{str(error)[:-1]}; or write {words}.') from None


# Words for how often, where a number of steps would be a riddle.
AT_THE_END, NEVER = 'at the end', 'never'


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Whole batches in one pass over the data."""
  return num_examples // batch_size


def make_length(
  text: str, *, batch_size: int, num_examples: int, field: str = 'train.length'
) -> Length:
  """The length of a run over a data set: an epoch is as many whole batches as it holds.

  Args:
    text: the duration of the run.
    batch_size: examples per optimizer step.
    num_examples: size of the training set.
    field: the field's name, for messages.

  Raises:
    ValueError: not a duration, less than a step, or 2^31 steps or more.
  """
  per_epoch = steps_per_epoch(num_examples, batch_size)
  total = duration_steps(field, text, steps_per_epoch=per_epoch, batch_size=batch_size)
  if total < 1:
    raise ValueError(f"{field}='{text}' is less than one step.")
  if total > MOST_STEPS:
    raise ValueError(
      f"{field}='{text}' is too long: a run has at most {MOST_STEPS:,} steps, counted in 32 bits."
    )
  return Length(batch_size, per_epoch, total)


def is_due(done: Any, every: int) -> Any:
  """Whether what happens every so many steps happens after `done` of them; not where it is < 1.

  Args:
    done: a number of steps, traced or not.
    every: a number of steps, see `Length.every`.
  """
  return (every > 0) & (done % max(every, 1) == 0)


def next_due(done: int, every: int) -> float:
  """The next step after `done` at which it is due; infinity where it never is."""
  return (done // every + 1) * every if every > 0 else math.inf
