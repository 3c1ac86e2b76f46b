"""Between BYOL and SimCLR, and BYOL's target: the ablations of BYOL's paper (tables 5a, 5b).

    python -m byoljax.main --config=configs/bridge.py:byol
    python -m byoljax.main --config=configs/bridge.py:cifar10,simclr

One loss with three switches: a predictor, a target network, and the weight beta of the negatives.
The eight rows, with ImageNet linear top-1 at 300 epochs as the paper gives it:

    :byol                     predictor, target, beta 0    72.5
    :byol_negatives           predictor, target, beta 1    70.9
    :target_negatives                    target, beta 1    70.7
    :simclr                                      beta 1    69.4
    :predictor_negatives      predictor,         beta 1    69.1
    :predictor_only           predictor,         beta 0     0.3
    :target_only                         target, beta 0     0.2
    :neither                                     beta 0     0.1

And what the target may be, with the predictor and without negatives:

    :tau_1 (never moves) 18.8   :tau_0.999 69.8   :tau_0.99 72.5   :tau_0.9 68.4
    :tau_0 (stop-gradient of the online network) 0.3
    :constant_random          a network that stays as it was drawn

The scale comes first, as in configs/byol.py: `:imagenet,300,byol`. As in the paper tau is constant
in the `tau_` rows and rises to 1 in the others.

Any other: `--config.method.target_mode=constant_random|stop_gradient|none`,
`--config.method.predictor='()'`, `--config.method.symmetric=false`, `--config.method.beta=0.5`.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from . import byol, scales

METHOD = {
  'name': 'bridge',
  'projector': (4096, 256),  # hidden, output
  'predictor': (4096, 256),
  'base_tau': 0.99,  # of the target at step 0
  'tau_schedule': 'cosine',  # or 'constant'
  'target_mode': 'ema',  # or constant_random, stop_gradient, none
  'symmetric': True,  # both directions of the loss
  'beta': 0.0,  # weight of SimCLR's negatives
  'alpha': 0.1,  # their temperature
}

# row -> (predictor?, target?, beta)
ROWS = {
  'byol': (True, True, 0.0),
  'byol_negatives': (True, True, 1.0),
  'target_negatives': (False, True, 1.0),
  'simclr': (False, False, 1.0),
  'predictor_negatives': (True, False, 1.0),
  'predictor_only': (True, False, 0.0),
  'target_only': (False, True, 0.0),
  'neither': (False, False, 0.0),
}
TAUS = (1.0, 0.999, 0.99, 0.9)


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(
    arg,
    METHOD,
    byol.ADAPT | {'shapes': shapes, 'cifar10': cifar10},
    epochs={'imagenette': 1000, 'imagenet': 300},
    variants=VARIANTS,
  )


def shapes(config: ConfigDict, epochs: int) -> None:
  """Small heads and the scale's own views."""
  del epochs
  config.method.update(projector=(512, 128), predictor=(512, 128), base_tau=0.98)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The optimizer of BYOL's recipe."""
  del epochs
  config.optim.update(base_lr=1.0, weight_decay=1e-5)


def _row(predictor: bool, target: bool, beta: float) -> Callable[[ConfigDict], None]:
  def change(config: ConfigDict) -> None:
    config.method.update(target_mode='ema' if target else 'none', beta=beta)
    if not predictor:
      config.method.predictor = ()

  return change


def _constant_tau(tau: float) -> Callable[[ConfigDict], None]:
  def change(config: ConfigDict) -> None:
    config.method.update(base_tau=tau, tau_schedule='constant')

  return change


def _target_mode(mode: str) -> Callable[[ConfigDict], None]:
  return lambda config: config.method.update(target_mode=mode)


VARIANTS: dict[str, Callable[[ConfigDict], None]] = {
  **{name: _row(*row) for name, row in ROWS.items()},
  **{f'tau_{tau:g}': _constant_tau(tau) for tau in TAUS},
  'tau_0': _target_mode('stop_gradient'),
  'constant_random': _target_mode('constant_random'),
}
