"""What the processes of a run agree on."""

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
