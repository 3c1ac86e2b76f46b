"""Damaged .npz files are a sentence, wherever the damage is."""

import numpy as np
import pytest

from byoljax.data.sources import npz_file

# Of more than a megabyte, which is mapped where it is stored.
MEMBER = np.arange(2 << 20, dtype=np.uint32).astype(np.uint8)


@pytest.mark.parametrize(
  ('save', 'found', 'damaged'),
  [
    (np.savez_compressed, b'x.npy', b'x.npy' + b'\xff' * 60),  # the compressed bytes
    (np.savez, b'(2097152,), }', b'(2097152,),  '),  # the header of an array
    (np.savez, b'PK\x01\x02\x2d\x03\x2d', b'PK\x01\x02\x2d\x03\xff'),  # the version that is needed
    (np.savez, b'PK\x01\x02\x2d\x03\x2d\0\0', b'PK\x01\x02\x2d\x03\x2d\0\1'),  # encrypted
  ],
  ids=['bytes', 'header', 'version', 'encrypted'],
)
def test_damage_is_a_sentence(tmp_path, save, found, damaged):
  path = tmp_path / 'a.npz'
  save(path, x=MEMBER if b'2097152' in found else MEMBER[:1000])
  raw = path.read_bytes()
  at = raw.index(found)
  path.write_bytes(raw[:at] + damaged + raw[at + len(damaged) :])
  with pytest.raises(ValueError, match=r'a\.npz cannot be read as an \.npz of plain arrays: ..'):
    npz_file.read(str(path), {'x'})
