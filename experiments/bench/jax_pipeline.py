"""byoljax's input as a contestant: `pipeline.train_batches`, and the augmentation of the step.

The host's part and the accelerator's part are timed apart, as they run on different hardware when
there is an accelerator. Here both run on the CPU: their sum is what a finished view costs.
"""

from typing import Any

import contest
import jax

from byoljax import __version__
from byoljax.data.augment import device, views
from byoljax.data.batches import pipeline
from byoljax.data.batches.order import Order
from byoljax.data.sources import datasets

PACKAGES = ('jax', 'jaxlib', 'numpy', 'tensorflow', 'tensorflow-cpu', 'pillow')


class Contestant:
  """Answers 'prepare', 'host' and 'device'; see pipeline_bench.py."""

  def prepare(self, case: dict[str, Any]) -> contest.Reply:
    """Opens the images and compiles the augmentation."""
    self._case = case
    numbered = {f'view{number + 1}': view for number, view in enumerate(case['views'])}
    self._specs = views.specs_of(numbered)
    name = 'npz' if case['path'].endswith('.npz') else 'folder'
    self._source = datasets.load(name, 'pretrain', data_dir=case['path'])
    self._next = 0
    self._batch: dict[str, Any] = {}  # the last one made
    self._augment = jax.jit(
      device.make_augment(self._specs, seed=0, mean=case['mean'], std=case['std'])
    )
    self.host(1)
    self.device(1)
    return {'versions': {'byoljax': __version__} | contest.versions(PACKAGES)}

  def host(self, batches: int) -> contest.Reply:
    """Makes that many batches, from opening the pipeline to its end."""
    start, self._next = self._next, self._next + batches
    images = 0

    def work() -> None:
      nonlocal images
      source = pipeline.train_batches(
        self._source,
        self._specs,
        order=Order(self._source.size, self._case['batch_size'], seed=0),
        seed=0,
        start_step=start,
        stop_step=start + batches,
        threads=self._case['workers'],
      )
      for batch in source:
        images += len(batch['index'])
        self._batch = batch

    wall, cpu = contest.timed(work)
    return {'images': images, 'wall': wall, 'cpu': cpu}

  def device(self, batches: int) -> contest.Reply:
    """Augments one batch of the host's, again and again, to normalized float32 views."""
    jax.block_until_ready(self._augment(self._batch))

    def work() -> None:
      for _ in range(batches):
        jax.block_until_ready(self._augment(self._batch))

    wall, cpu = contest.timed(work)
    return {'images': batches * len(self._batch['index']), 'wall': wall, 'cpu': cpu}


if __name__ == '__main__':
  contestant = Contestant()
  contest.serve(
    {'prepare': contestant.prepare, 'host': contestant.host, 'device': contestant.device}
  )
