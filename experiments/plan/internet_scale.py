"""100 million images, batches of 32,768, ten thousand accelerators: what breaks first. A model.

    python experiments/plan/internet_scale.py

reads what scaling.py counted (scaling.json), does the arithmetic, prints README.md's tables.
"""

import json
import pathlib

import scaling

from byoljax.plan import estimate, hardware
from byoljax.report import table

HERE = pathlib.Path(__file__).parent
IMAGES, BATCH, DEVICES, MEGABYTE = 100_000_000, 32_768, 8_192, 1e6
SHARE = 0.25  # of the peak, an assumption
STATE_BYTES = 429_277_432  # of BYOL's ResNet-50: `plan --no_compile` says 409.39 MiB


def step(kind: str, shape: str, method: str, counted: dict) -> estimate.StepTime:
  """The model's step at `DEVICES` devices."""
  work = counted[f'{method},{BATCH}']
  flops = {d: work['constants'][d] + s * BATCH / DEVICES for d, s in work['slopes'].items()}
  topology = hardware.parse(f'{kind}:{shape}')
  assert topology.num_devices == DEVICES
  sizes = scaling.traffic_at(work, DEVICES)
  return estimate.step_time(topology, flops, sizes, work['rounds'], share=SHARE)


def main() -> None:
  """Prints the arithmetic."""
  stored = json.loads((HERE / 'scaling.json').read_text())
  rows = []
  for kind, shape in (('v5p', '16x16x32'), ('h100', '1024x8')):
    topology = hardware.parse(f'{kind}:{shape}')
    for method in ('byol', 'simclr'):
      parts = step(kind, shape, method, stored['counted'])
      rate = BATCH / parts.total
      rows.append(
        {
          'machine, method': f'{kind} {shape}, {method}',
          'step ms': 1e3 * parts.total,
          'work ms': 1e3 * parts.work,
          'transfer ms': 1e3 * parts.transfer,
          'latency ms': 1e3 * parts.latency,
          'images/s': rate,
          'cores per host': rate / topology.num_hosts / stored['images_per_cpu_second'],
          'storage GB/s': rate * 115_000 / 1e9,
          'epoch s': IMAGES / rate,
          'restore TB': STATE_BYTES * topology.num_hosts / 1e12,
        }
      )
  formats = dict.fromkeys(list(rows[0])[1:], '{:.1f}') | {'images/s': '{:,.0f}'}
  formats |= {'epoch s': '{:.0f}', 'restore TB': '{:.2f}', 'cores per host': '{:.0f}'}
  print(table.format_table(rows, list(rows[0]), formats=formats, style='markdown'))
  sizes = {
    'permutation of an epoch, int64, per process': IMAGES * 8,
    'memory bank of 128 float32 per image, per device': IMAGES * 128 * 4,
    'features of all images for clustering, 256 float32, per host': IMAGES * 256 * 4,
    "MoCo's queue of 65,536, per device": 65_536 * 128 * 4,
    'all-gathered projections of two views, 128 float32': 2 * BATCH * 128 * 4,
    'logits of a device against all, float32': 2 * BATCH // DEVICES * 2 * BATCH * 4,
  }
  cells = [{'what': name, 'MB': size / MEGABYTE} for name, size in sizes.items()]
  print(table.format_table(cells, ['what', 'MB'], formats={'MB': '{:,.0f}'}, style='markdown'))


if __name__ == '__main__':
  main()
