"""Formats a plan as a few short tables."""

from collections.abc import Mapping
from typing import Any

from byoljax.report import table
from byoljax.wording import counted

_GIB = 2**30


def text(plan: Mapping[str, Any], *, style: str | None = None) -> str:
  """The plan as text; see `summary.make` for its contents and `table.format_table` for styles."""
  parts = [_headline(plan), _rows(_what_it_needs(plan), style)]
  parts.append(_rows(_traffic(plan), style))
  if 'kernels' in plan:
    parts.append(_kernels(plan, style))
  parts.append(f'{_times(plan, style)}\n{basis(plan)}')
  parts.append('Assumptions\n' + '\n'.join(f'- {line}' for line in plan['assumptions']))
  return '\n\n'.join(parts)


def verdict(plan: Mapping[str, Any]) -> str:
  """Whether the step fits, in one sentence."""
  memory = plan['memory']
  if 'fits' not in memory:
    return 'Not compiled: whether it fits is unknown.'
  if 'needed' not in memory:
    return f'Does not fit: the compiler says "{memory["compiler_says"]}".'
  share = memory['needed'] / memory['available']
  if memory['fits']:
    return f'Fits, with {_size(memory["spare"])} to spare ({share:.0%} of the memory is used).'
  return f'Does not fit: {_size(-memory["spare"])} too much ({share:.0%} of the memory).'


def basis(plan: Mapping[str, Any]) -> str:
  """What the times rest on, in a sentence or two."""
  if plan['estimate']['based_on']:
    return f'The shares of the peak were {plan["estimate"]["based_on"]}.'
  return (
    'Optimistic: nothing was measured, and the fast column is a bound that trainings do not reach. '
    'Give the bench.json that `byoljax bench` writes on one such device, --bench=FILE.'
  )


def _headline(plan: Mapping[str, Any]) -> str:
  run, machine = plan['run'], plan['machine']
  return (
    f'{run["method"]}, {run["encoder"]} in {run["dtype"]}, {run["images"]:,} images of '
    f'{run["data"]}, on {machine["topology"]}: {counted(machine["devices"], "device")}, '
    f'{counted(machine["chips"], "chip")}, {counted(machine["hosts"], "host")}\n'
    f'{run["length"]} = {counted(run["steps"], "step")} of {counted(run["batch_size"], "image")}, '
    f'{run["images_per_device"]} per device\n{verdict(plan)}'
  )


def _what_it_needs(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
  memory, flops, data = plan['memory'], plan['flops'], plan['input']
  rows = []
  if 'needed' in memory:
    rows += [
      ('memory needed', f'{_size(memory["needed"])} of {_size(memory["available"])}'),
      ('  arguments (state and batch)', _size(memory['arguments'])),
      ('  temporaries', _size(memory['temporaries'])),
      ('  program', _size(memory['code'])),
      ('  peak, by the compiler', _size(memory['peak']) if memory['peak'] else 'unknown'),
    ]
  rows.append(('train state', _size(memory['state']['total'])))
  per_device = flops['per_device_and_step']
  rows += [(f'FLOPs, {dtype}', f'{n:.4g}') for dtype, n in per_device.items()]
  rows.append(('FLOPs per image, all', f'{flops["per_image"]:.4g}'))
  compiler = plan.get('compiler', {})
  if compiler.get('flops'):
    ratio = compiler['counted_over_compiler']
    rows.append(('FLOPs by the compiler', f'{compiler["flops"]:.4g} (counted / this: {ratio:.3f})'))
  if compiler.get('bytes_accessed'):
    rows.append(('memory traffic by the compiler', _size(compiler['bytes_accessed'])))
  rows.append(('input per host and step', _size(data['bytes_per_host_and_step'])))
  if 'largest_batch' in plan:
    found = plan['largest_batch']
    rows.append(
      ('largest batch that fits', f'{found["batch_size"]} ({found["per_device"]} per device)')
    )
  return rows


def _traffic(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
  found = plan['collectives']
  titles = {
    'written': 'as written',
    'written_at_logged_steps_only': 'as written, at logged steps',
    'compiled': 'compiled',
    'compiled_at_logged_steps_only': 'compiled, at logged steps',
  }
  rows = []
  for name, title in titles.items():
    rows += [
      (f'{kind}, {title}', f'{row["calls"]} x, {_size(row["bytes"])}')
      for kind, row in found.get(name, {}).items()
    ]
  rows.append(('dependent collectives', f'at least {found["rounds"]}'))
  if found.get('unknown_loops') or plan['flops']['unknown_loops']:
    rows.append(('loops of unknown length', 'counted once'))
  return rows


def _kernels(plan: Mapping[str, Any], style: str | None) -> str:
  found = plan['kernels']
  total = {name: sum(row[name] for row in found.values()) for name in ('launches', 'bytes')}
  cells = [
    {'kernels': kind, 'per step': f'{row["launches"]:,}', 'read and written': _size(row['bytes'])}
    for kind, row in (found | {'all': total}).items()
  ]
  return table.format_table(cells, ['kernels', 'per step', 'read and written'], style=style)


def _rows(rows: list[tuple[str, str]], style: str | None) -> str:
  cells = [{'per device and step': name, 'value': value} for name, value in rows]
  return table.format_table(cells, ['per device and step', 'value'], style=style)


def _times(plan: Mapping[str, Any], style: str | None) -> str:
  fast, slow = plan['estimate']['fast'], plan['estimate']['slow']
  rows = [
    ('share of the peak', f'{fast["share_of_peak"]:.3g}', f'{slow["share_of_peak"]:.3g}'),
    ('step', _seconds(fast['step_seconds']), _seconds(slow['step_seconds'])),
    *(
      (f'  {part}', *(_seconds(end['parts'][part]) for end in (fast, slow)))
      for part in fast['parts']
    ),
    ('images/s', f'{fast["images_per_second"]:,.0f}', f'{slow["images_per_second"]:,.0f}'),
    ('images/s per host', *(f'{end["host_images_per_second"]:,.0f}' for end in (fast, slow))),
    ('to the devices, per host and s', *(_size(e['host_bytes_per_second']) for e in (fast, slow))),
    ('whole run', *(_hours(end['run_hours']) for end in (fast, slow))),
  ]
  if fast['cost'] is not None:
    rows.append(('cost', f'{fast["cost"]:,.0f}', f'{slow["cost"]:,.0f}'))
  cells = [{'estimate': name, 'fast': a, 'slow': b} for name, a, b in rows]
  return table.format_table(cells, ['estimate', 'fast', 'slow'], style=style)


def _size(size: float) -> str:
  for unit, scale in (('GiB', _GIB), ('MiB', 2**20), ('KiB', 2**10)):
    if size >= scale:
      return f'{size / scale:.2f} {unit}'
  return f'{size:.0f} B'


def _seconds(seconds: float) -> str:
  if not seconds:
    return '-'
  for unit, scale in (('s', 1), ('ms', 1e-3)):
    if seconds >= scale:
      return f'{seconds / scale:.3g} {unit}'
  return f'{seconds * 1e6:.3g} us'


def _hours(hours: float) -> str:
  if hours >= 48:
    return f'{hours / 24:.1f} days'
  return f'{hours:.1f} h' if hours >= 1 else f'{hours * 60:.1f} min'
