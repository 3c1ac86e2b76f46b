"""What `byoljax.plan.timing` has measured, for a person."""

from typing import Any

from byoljax.report import table
from byoljax.wording import counted

_PARTS = {'input': 'input only', 'step': 'step only', 'training': 'training'}
_COLUMNS = {'img/s': 'img_per_s', 'ms/step': 'ms_per_step', 's/epoch': 's_per_epoch'}


def text(found: dict[str, Any]) -> str:
  """Table, waiting, memory, work and verdict of what `timing.measure` returned."""
  rows = [
    {'': label} | {name: _number(found[part][key]) for name, key in _COLUMNS.items()}
    for part, label in _PARTS.items()
  ]
  work, memory = found['flops'], found['peak_memory']
  device = f'{found["devices"]} x {found["device_kind"]}'
  where = 'on the device' if found['data_on_device'] else 'from the host'
  lines = [
    f'{found["method"]}, {found["encoder"]} encoder, {found["dtype"]}, '
    f'batch {found["batch_size"]}, views of {", ".join(map(str, found["views"]))} px, {device}; '
    f'data {where}, {counted(found["steps_per_call"], "step")} per call; '
    f'medians of {counted(found["rounds"], "round")} of {counted(found["steps"], "step")}',
    '',
    table.format_table(rows, ['', *_COLUMNS]),
    '',
    f'waiting for data  {found["wait"]:.1%} of training',
    f'compiling and first step  {found["first_step_s"]:.1f} s',
    'peak memory  '
    + ('unknown' if memory is None else f'{memory["bytes"] / 1e9:.2f} GB ({memory["of"]})'),
    f'work  {work["per_image"] / 1e9:.3g} GFLOP per image; '
    + '; '.join(_rate(label, work[part]) for label, part in (('step', 'step'), ('training',) * 2)),
    verdict(found),
  ]
  return '\n'.join(lines)


def _number(value: float) -> str:
  """Three digits; whole numbers from 100 on."""
  return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _rate(label: str, rate: dict[str, Any]) -> str:
  share = '–' if rate['share_of_peak'] is None else f'{rate["share_of_peak"]:.1%}'
  return f'{label} {rate["per_s"] / 1e12:.3g} TFLOP/s, {share} of the peak'


def verdict(found: dict[str, Any]) -> str:
  """One sentence: what limits this training."""
  if found['wait'] > 0.1:
    return 'The input is the bottleneck: the step waits for it.'
  step, training = found['step']['ms_per_step'], found['training']['ms_per_step']
  if training > 1.15 * step:
    shares = found['device_kind'] == 'cpu' and not found['data_on_device']
    why = 'the input uses the same cores' if shares else 'copies to the device or the loop take it'
    return f'The step does not wait, but takes {training / step - 1:.0%} longer than alone: {why}.'
  return 'The step is the bottleneck: the input keeps up.'
