"""Handwritten digits as arrays, from scikit-learn: small enough to learn to draw on a CPU core.

    python experiments/digits.py digits.npz

1,797 digits of 8 x 8 pixels with 17 grays, of 43 writers (Alpaydin and Kaynak, UCI), which ship
with scikit-learn; nothing is downloaded. They are made larger to 32 x 32, bicubic. Every fifth one
is a test image: a writer's digits are in both parts.
"""

import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32
NAMES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')


def enlarged(digit: np.ndarray) -> np.ndarray:
  """float [8, 8] of 0 to 16 -> uint8 [32, 32]."""
  small = np.round(digit * (255 / 16)).astype(np.uint8)
  return np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def main() -> None:
  """Writes the arrays that training and tests read."""
  digits = load_digits()
  images, labels = np.stack([enlarged(digit) for digit in digits.images]), digits.target
  tested = np.arange(len(images)) % 5 == 4
  made = {'class_names': np.array(NAMES)}
  for part, which in (('train', ~tested), ('test', tested)):
    made[f'x_{part}'], made[f'y_{part}'] = images[which], labels[which]
  np.savez(sys.argv[1], **made)
  print({name: values.shape for name, values in made.items()})


if __name__ == '__main__':
  main()
