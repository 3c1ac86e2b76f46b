"""How a step's time grows and shrinks with the number of devices: a model, not a measurement.

    python experiments/plan/scaling.py

counts ResNet-50 steps of BYOL and SimCLR (work, bytes, collectives that wait for each other; no
compiler is needed), puts them into `byoljax.plan.estimate` for 16 to 4,096 chips, and writes
scaling.json, scaling.png and the tables of README.md beside itself.
"""

import json
import pathlib

import jax

jax.config.update('jax_platforms', 'cpu')

from byoljax import config as config_lib  # noqa: E402
from byoljax.plan import aot, estimate, flops, hardware  # noqa: E402
from byoljax.report import table  # noqa: E402

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parent.parent / 'configs'
DEVICES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
# Tori as they are built: sides of multiples of 4, as even as they come.
TORI = {16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8),
        512: (8, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16)}  # fmt: skip
CASES = (('byol', 4096), ('byol', 32768), ('simclr', 4096), ('simclr', 32768))
# Measured here, see README.md: images with two 224-pixel views per second of one CPU core.
IMAGES_PER_CPU_SECOND = 224
CORES_PER_HOST = 100  # an assumption
COUNTED_AT = 256  # devices, of the traffic
STORED_BYTES = 115_000  # per image: ImageNet's archives


def counted(method: str, batch: int) -> dict:
  """What a step does as a straight line in the images per device, checked at a third point."""
  config = config_lib.load(f'{CONFIGS}/{method}.py:imagenet', [('encoder.dtype', 'bfloat16')])
  with config.unlocked():
    config.train.batch_size = batch
  source = aot.described_source(config)

  def at(devices: int) -> flops.Work:
    mesh = aot.counting_mesh(devices)
    run = aot.assembled(config, source, mesh)
    return flops.count(run.step, *aot.abstract_arguments(run, mesh))

  few, many, check = at(64), at(1024), at(COUNTED_AT)
  slopes, constants = {}, {}
  for dtype in few.flops:
    slope = (few.flops[dtype] - many.flops[dtype]) / (batch / 64 - batch / 1024)
    slopes[dtype], constants[dtype] = slope, many.flops[dtype] - slope * batch / 1024
    line = constants[dtype] + slope * batch / COUNTED_AT
    # All-gathered InfoNCE and effective ranks bend it by less than a per mille.
    assert abs(line - check.flops[dtype]) <= 1e-3 * sum(check.flops.values()), (dtype, line)
  assert few.rounds == many.rounds == check.rounds
  traffic = {kind: size for kind, (_, size) in check.collectives.items()}
  return {'slopes': slopes, 'constants': constants, 'traffic': traffic, 'rounds': few.rounds}


def traffic_at(work: dict, devices: int) -> dict[str, float]:
  """Bytes of the collectives' results: a reduce-scatter leaves a device its share, others all."""
  return {
    kind: size * COUNTED_AT / devices if kind == 'reduce-scatter' else size
    for kind, size in work['traffic'].items()
  }


def machine(kind: str, devices: int) -> hardware.Topology:
  """So many chips of a kind in one torus, or GPUs in hosts of eight."""
  if hardware.CHIPS[kind].platform == 'cuda':
    return hardware.parse(f'{kind}:{devices // 8}x8')
  return hardware.parse(f'{kind}:{"x".join(map(str, TORI[devices]))}')


def rows_of(kind: str, method: str, batch: int, work: dict) -> list[dict]:
  """The model's step at every number of devices that the batch goes around."""
  rows = []
  for devices in DEVICES:
    topology = machine(kind, devices)
    per_device = batch / devices
    row = {'machine': kind, 'method': method, 'batch': batch, 'devices': devices}
    for end, share in zip(('slow', 'fast'), estimate.DEFAULT_SHARE, strict=True):
      done = {d: work['constants'][d] + s * per_device for d, s in work['slopes'].items()}
      parts = estimate.step_time(
        topology,
        done,
        traffic_at(work, devices),
        work['rounds'],
        share=share,
        images_per_host=batch / topology.num_hosts,
        host_rate=IMAGES_PER_CPU_SECOND * CORES_PER_HOST,
      )
      row[end] = {
        **parts._asdict(),
        'step': parts.total,
        'images_per_second': batch / parts.total,
        'bound_by': parts.bound,
      }
    rows.append(row)
  return rows


def plot(rows: list[dict], path: pathlib.Path) -> None:
  """Throughput against devices as bands, and what the fast step consists of."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 4.4), layout='constrained')
  left, right = figure.subplots(1, 2)
  colors = {('v4', 4096): '#1f5fa8', ('v4', 32768): '#d9730d', ('h100', 4096): '#2e8b57',
             ('h100', 32768): '#8e44ad'}  # fmt: skip
  for (kind, batch), color in colors.items():
    own = [r for r in rows if (r['machine'], r['method'], r['batch']) == (kind, 'byol', batch)]
    x = [r['devices'] for r in own]
    slow, fast = ([r[end]['images_per_second'] for r in own] for end in ('slow', 'fast'))
    left.fill_between(x, slow, fast, color=color, alpha=0.25, linewidth=0)
    left.plot(x, fast, color=color, label=f'{kind}, batch {batch:,}')
    left.plot(x, slow, color=color, linewidth=0.8)
  first = next(r for r in rows if (r['machine'], r['batch']) == ('v4', 32768))
  base = first['fast']['images_per_second'] / first['devices']
  left.plot(DEVICES, [base * n for n in DEVICES], '--', color='#888', label='v4, linear')
  left.set(xscale='log', yscale='log', xlabel='devices', ylabel='images/s',
           title='BYOL, ResNet-50: model, share of peak 0.1 to 0.4')  # fmt: skip
  left.set_xticks(DEVICES, [f'{n:,}' for n in DEVICES], rotation=45)
  left.minorticks_off()
  left.legend(frameon=False, fontsize=8)
  own = [r for r in rows if (r['machine'], r['method'], r['batch']) == ('v4', 'byol', 4096)]
  bottom = [0.0] * len(own)
  names = {'work': 'work at 0.4 of the peak', 'transfer': 'transfer', 'latency': 'sync-BN latency'}
  for (part, label), color in zip(names.items(), ('#1f5fa8', '#2e8b57', '#d9730d'), strict=True):
    share = [100 * r['fast'][part] / r['fast']['step'] for r in own]
    right.bar(range(len(own)), share, bottom=bottom, color=color, label=label)
    bottom = [a + b for a, b in zip(bottom, share, strict=True)]
  right.set_xticks(range(len(own)), [f'{r["devices"]:,}' for r in own], rotation=45)
  right.set(xlabel='devices (v4)', ylabel='% of the step', ylim=(0, 100),
            title='What a step of batch 4,096 consists of: model')  # fmt: skip
  right.legend(frameon=False, fontsize=8, loc='lower center', bbox_to_anchor=(0.5, 1.07), ncols=3)
  for axes in (left, right):
    axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=110)


def published(work: dict) -> dict:
  """The model beside BYOL's published 1000 epochs on 512 TPU v3 cores."""
  topology = hardware.parse('v3:16x16')
  steps = 1000 * (1_281_167 // 4096)
  hours = {}
  for share in (*estimate.DEFAULT_SHARE, 0.09):
    done = {d: work['constants'][d] + s * 8 for d, s in work['slopes'].items()}
    sizes = traffic_at(work, topology.num_devices)
    parts = estimate.step_time(topology, done, sizes, work['rounds'], share=share)
    hours[f'{share:g}'] = steps * parts.total / 3600
  return {'model_hours_by_share': hours, 'published_hours': 8}


def main() -> None:
  """Counts, models, writes and prints."""
  work = {case: counted(*case) for case in CASES}
  rows = [
    row for kind in ('v4', 'h100') for case in CASES for row in rows_of(kind, *case, work[case])
  ]
  stored = {
    'what': 'a model: see README.md',
    'images_per_cpu_second': IMAGES_PER_CPU_SECOND,
    'cores_per_host': CORES_PER_HOST,
    'counted': {f'{method},{batch}': each for (method, batch), each in work.items()},
    'published': published(work['byol', 4096]),
    'rows': rows,
  }
  (HERE / 'scaling.json').write_text(json.dumps(stored, indent=1) + '\n')
  plot(rows, HERE / 'scaling.png')
  cells = [
    {
      'machine': f'{r["machine"]}, {r["method"]}, batch {r["batch"]:,}',
      'devices': r['devices'],
      'step ms': f'{r["fast"]["step"] * 1e3:.1f}-{r["slow"]["step"] * 1e3:.1f}',
      'latency ms': 1e3 * r['fast']['latency'],
      'transfer ms': 1e3 * r['fast']['transfer'],
      'images/s': f'{r["slow"]["images_per_second"]:,.0f}-{r["fast"]["images_per_second"]:,.0f}',
      'storage GB/s': STORED_BYTES * r['fast']['images_per_second'] / 1e9,
      'bound by': '/'.join(dict.fromkeys((r['fast']['bound_by'], r['slow']['bound_by']))),
    }
    for r in rows
    if r['devices'] in (64, 512, 4096)
  ]
  formats = {'devices': '{:,.0f}', 'latency ms': '{:.1f}', 'transfer ms': '{:.2f}',
             'storage GB/s': '{:.1f}'}  # fmt: skip
  print(table.format_table(cells, list(cells[0]), formats=formats, style='markdown'))
  print(stored['published'])


if __name__ == '__main__':
  main()
