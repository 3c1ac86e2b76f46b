"""Next-step prediction of series: image GPT on numbers [N, T, C] in an .npz file.

    python -m byoljax.main --config=configs/next_step.py --config.data.dir=series.npz

The file holds floats `x_train` and, as far as there are any, `x_test`, `x_unlabelled`, `y_train`,
`y_test`; `docs/generative.md` says how series are read. Minutes on a CPU for a thousand of 100
numbers each. `byoljax sample RUN` draws new ones; the report shows how series are continued.

Sizes and rates are ours.
"""

from ml_collections import ConfigDict

from . import image_gpt, scales

METHOD = {'name': 'image_gpt'}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg or 'npz', METHOD, {'npz': npz, 'smoke': image_gpt.smoke},
                      epochs={'npz': 100})  # fmt: skip


def npz(config: ConfigDict, epochs: int) -> None:
  """A small transformer on series of up to about a thousand numbers, in 64 values."""
  del epochs
  image_gpt.transformer(config, 'image_gpt_micro', 16)
  config.views.view1.flip_prob = 0.0
  config.encoder.palette = 64
  config.data.update(mean=(), std=())
  config.train.batch_size = 32
  config.optim.update(
    name='adamw', base_lr=1.6e-2, weight_decay=0.01, b2=0.95, warmup='10 %', clip_norm=1.0,
    trust_coefficient=0.001,
  )  # fmt: skip
  config.evals.knn.every = config.checkpoint.every
  config.evals.linear.update(length='100 epochs', batch_size=32, base_lr=scales.WIDE_SWEEP)
