"""Where a run begins: at its newest checkpoint, or at step 0 with one state for all processes."""

import logging

import jax

from byoljax.config import ConfigError, user_errors
from byoljax.devices import hosts, mapping
from byoljax.step import TrainState
from byoljax.train.run import Run
from byoljax.workdir import checkpoint, integrity, run_dir

log = logging.getLogger('byoljax')


def restore(run: Run, checkpoints: checkpoint.Checkpoints) -> tuple[TrainState, int]:
  """The state to resume from, placed on the devices, and its step: the newest checkpoint or 0.

  Raises:
    ConfigError: the checkpoint does not fit the run, or processes would begin with other states.
  """
  with user_errors('checkpoint'):
    found = checkpoints.restore_newest(jax.eval_shape(run.create))
  for note in checkpoints.notes:
    run_dir.say(note)
  if found is None:
    state = run.create()
    _require_one_start(state)
    return run.layout.place(state), 0
  state, step = found
  (run_dir.say if checkpoints.notes else log.info)(f'resuming from step {step}')
  return run.layout.place(state), step


def _require_one_start(state: TrainState) -> None:
  """Raises ConfigError on every process unless all have made the same state.

  Each makes its own, and nothing would ever make them equal again.
  """
  if jax.process_count() == 1:
    return
  made = integrity.digests(jax.tree.leaves(mapping.fetch(state)))
  if others := hosts.differing(' '.join(made)):
    raise ConfigError(
      f'other weights at the start in process {", ".join(map(str, others))} than in process 0: '
      f'init_from leads to other files there, modules of your own are others, or the processor is '
      f'of another kind.'
    )
