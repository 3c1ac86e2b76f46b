"""The network of a finished run, encoder and heads, as its method builds it.

A method is built from the run's configuration and from facts about its data and devices: how many
images and classes there were, how long it was. A run records them in its config.json, so that the
method can be built again where neither the data nor the devices are there.
"""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple

import jax

from byoljax import methods
from byoljax.config import Config, user_errors
from byoljax.data.batches.order import shares_of
from byoljax.encoders import codec, perceptual
from byoljax.encoders.encoder import Preprocessing
from byoljax.length import Length
from byoljax.method import Method, Setting
from byoljax.models import encoder_factory
from byoljax.models.net import Net
from byoljax.workdir import run_dir, stored_config


class Facts(NamedTuple):
  """What a method's builder was told about the run, beside its configuration.

  Attributes:
    num_examples: size of the training set.
    num_classes: its classes; 0 without labels.
    num_devices: that shared a batch at the start.
    steps_per_epoch: optimizer steps.
    total_steps: optimizer steps.
    given: name -> what is remembered of the networks that were given to the method: the number of
      a teacher's outputs; of a codec or a perceptual network, from which run it is, and the digest
      of its weights.
    shares: see `method.Setting`.
  """

  num_examples: int
  num_classes: int
  num_devices: int
  steps_per_epoch: int
  total_steps: int
  given: Mapping[str, Any]
  shares: tuple[int, ...] = (1,)


class Recorded(NamedTuple):
  """What is known of a network that was given to a method once the run is over.

  Attributes:
    dim: the number of its outputs.
  """

  dim: int


def preprocessing_of(config: Config) -> Preprocessing:
  """What the configuration of a run says about images."""
  data = config.data
  return Preprocessing(tuple(data.mean), tuple(data.std), config.evals.image_size, data.range)


def facts_of(run: Any, given: Mapping[str, Any]) -> dict[str, Any]:
  """The facts of a run that is about to begin, for its config.json.

  Args:
    run: a `Run`.
    given: the networks that its method was given.
  """
  facts = Facts(
    num_examples=run.source.size,
    num_classes=run.source.num_classes,
    num_devices=jax.device_count(),
    steps_per_epoch=run.length.steps_per_epoch,
    total_steps=run.length.total_steps,
    given={name: network.recorded for name, network in given.items()},
    shares=shares_of(run.order),
  )
  return facts._asdict()


def network(config: Config, workdir: pathlib.Path, module: Any = None) -> Net | None:
  """The network that the run's method trains; None where only its encoder is known.

  So it is with weights of another library, and where the run did not record its facts.

  Args:
    config: the run's configuration.
    workdir: the run's directory.
    module: the encoder, where it is one of the user's own.

  Raises:
    ConfigError: its method cannot be built.
  """
  made = method(config, workdir, module)
  return None if made is None else made.net


def method(config: Config, workdir: pathlib.Path, module: Any = None) -> Method | None:
  """The run's method, built again; None where it is not known. Arguments as for `network`."""
  return of_facts(config, run_dir.run_facts(workdir), module, f"'{workdir}'")


def of_facts(
  config: Config, facts: Mapping[str, Any], module: Any = None, where: str = 'the run'
) -> Method | None:
  """A run's method from its configuration and facts alone; None without facts.

  Args:
    config: the run's configuration.
    facts: of `facts_of`.
    module: as for `network`.
    where: whose method it is, for messages.

  Raises:
    ConfigError: it cannot be built.
  """
  if 'method' not in config or not facts:
    return None
  setting = _setting(config, Facts(**facts))
  encoder = encoder_factory(
    dict(config.encoder) if module is None else module,
    mean=config.data.mean,
    std=config.data.std,
    input=config.encoder.input,
  )
  with user_errors(f'config.method of {where}'):
    return methods.build_method(encoder, setting, config.method.to_dict())


def _setting(config: Config, facts: Facts) -> Setting:
  return Setting(
    length=Length(config.train.batch_size, facts.steps_per_epoch, facts.total_steps),
    accumulate=config.train.accumulate,
    num_devices=facts.num_devices,
    num_examples=facts.num_examples,
    num_classes=facts.num_classes,
    dtype=config.encoder.dtype,
    mean=tuple(config.data.mean),
    std=tuple(config.data.std),
    given={name: _recorded(name, found) for name, found in facts.given.items()},
    shares=tuple(facts.shares),
  )


def _recorded(name: str, found: Any) -> Any:
  """What is known of a network that was given: its size, or what it is without weights."""
  if not isinstance(found, Mapping):
    return Recorded(found)
  config = stored_config.stored(found['config'])
  if name == 'perceptual':
    return perceptual.of_fields(dict(config.encoder), preprocessing_of(config), {}, {}, found)
  where = f'the {name} that was given'
  method = of_facts(config, found['facts'], where=where)
  assert method is not None
  return codec.of_method(method, preprocessing_of(config), {}, {}, found)
