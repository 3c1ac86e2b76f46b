"""Features of both splits of a data set, for what is fitted to frozen features."""

import numpy as np

from byoljax.encoders.encoder import Encoder
from byoljax.protocols import extraction
from byoljax.protocols.extraction import EvalData

# Features float32 [N, D] and labels, int32 [N] or bool [N, C].
Split = tuple[np.ndarray, np.ndarray]


def splits(encoder: Encoder, data: EvalData) -> tuple[Split, Split]:
  """Features and labels of training and test images; images without a label are left out."""
  made = []
  for source in (data.train, data.test):
    found, labels = extraction.extract(encoder, source, data)
    known = labels >= 0 if labels.ndim == 1 else np.full(len(labels), True)
    made.append((found[known], labels[known]))
  return made[0], made[1]
