"""Headers of the JPEG and PNG files that TensorFlow decodes to the same picture as `image_file`.

Read in microseconds, from the file's bytes alone; of a damaged header nothing is made. Both take a
whole file, and give heights and widths of at least 1.
"""

# Who may decode a file: TensorFlow gives the same picture as Pillow for the first two.
JPEG = 0
PNG = 1
PILLOW = 2

ORIENTATION_TAG = 0x0112
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, all Huffman coded
_STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length


def of_jpeg(data: bytes) -> tuple[int, int, int] | None:
  """(JPEG, height, width) of a JPEG that TensorFlow decodes exactly, else None."""
  position, orientation, size = 2, 1, None
  end = len(data)
  while position + 4 <= end:
    if data[position] != 0xFF:
      return None
    marker = data[position + 1]
    if marker == 0xFF:  # fill byte
      position += 1
      continue
    if marker in _STANDALONE:
      position += 2
      continue
    length = int.from_bytes(data[position + 2 : position + 4], 'big')
    body = position + 4
    if marker in _FRAMES and body + 6 <= end:
      precision, components = data[body], data[body + 5]
      if precision != 8 or components not in (1, 3):
        return None
      height = int.from_bytes(data[body + 1 : body + 3], 'big')
      width = int.from_bytes(data[body + 3 : body + 5], 'big')
      size = (height, width)
    elif marker == 0xE1 and data[body : body + 6] == b'Exif\x00\x00':
      orientation = _exif_orientation(data[body + 6 : position + 2 + length])
    elif marker == 0xDA:
      # No end-of-image marker after the start of the scan: truncated. A decoder that stops at the
      # crop would not notice, and whether a file counts as readable must not depend on the crop.
      whole = data.rfind(b'\xff\xd9', body) >= 0
      upright = whole and orientation == 1 and size is not None and min(size) > 0
      return (JPEG, *size) if upright and size else None
    position += 2 + length
  return None


def _exif_orientation(block: bytes) -> int:
  """Orientation 1..8 in the first directory of a TIFF block; 1 where there is none."""
  order = {b'II': 'little', b'MM': 'big'}.get(block[:2])
  if order is None:
    return 1

  def number(start: int, count: int) -> int:
    return int.from_bytes(block[start : start + count], order)  # type: ignore[arg-type]

  directory = number(4, 4)
  for entry in range(min(number(directory, 2), 512)):
    start = directory + 2 + 12 * entry
    if number(start, 2) == ORIENTATION_TAG:
      value = number(start + 8, 2)
      return value if 1 <= value <= 8 else 1
  return 1


def of_png(data: bytes) -> tuple[int, int, int] | None:
  """(PNG, height, width) of an 8-bit gray or RGB PNG without transparency or EXIF, else None."""
  if len(data) < 33 or data[12:16] != b'IHDR':
    return None
  width, height = int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big')
  depth, color = data[24], data[25]
  pixels = data.find(b'IDAT', 33)
  if depth != 8 or color not in (0, 2) or pixels < 0 or min(height, width) < 1:
    return None
  if data.find(b'tRNS', 33, pixels) >= 0 or data.find(b'eXIf', 33, pixels) >= 0:
    return None
  return PNG, height, width
