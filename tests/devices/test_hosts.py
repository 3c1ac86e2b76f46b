"""What the processes of a run agree on."""

from concurrent import futures
import threading

import jax
from jax.experimental import multihost_utils
import numpy as np
import pytest

from byoljax.devices import hosts


def test_an_error_of_one_process_is_one_of_all(monkeypatch):
  with hosts.raising_together(ValueError, 'elsewhere'):
    pass
  with pytest.raises(ValueError, match='here'), hosts.raising_together(ValueError, 'elsewhere'):
    raise ValueError('here')
  monkeypatch.setattr(hosts, 'dissenters', lambda fine: [1])
  with (
    pytest.raises(ValueError, match='elsewhere'),
    hosts.raising_together(ValueError, 'elsewhere'),
  ):
    pass


def test_what_several_processes_have_met_counts_once(monkeypatch):
  """Two threads in place of processes, which wait for each other and see what both have."""
  everyone, barrier = {}, threading.Barrier(2, timeout=10)

  def gathered(x):
    everyone[threading.get_ident()] = x
    barrier.wait()
    found = np.stack(list(everyone.values()))
    barrier.wait()
    return found

  assert hosts.count_distinct(['a', 'b', 'a']) == 2
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(multihost_utils, 'process_allgather', gathered)
  with futures.ThreadPoolExecutor(2) as pool:
    for names, count in (((['a', 'b'], ['b', 'c', 'd']), 4), (([], ['b']), 1), (([], []), 0)):
      assert list(pool.map(hosts.count_distinct, names)) == [count, count]
