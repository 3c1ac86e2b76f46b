"""The streams of random numbers: which uses there are, and the number of each.

Everything random is a function of (seed, stream, step or epoch, position). Two uses that shared a
generator would draw the same numbers, so every use has a number of its own, here:

- a JAX key is folded with a stream first, and with what is counted (a step, a micro-batch, an
  example's global position) afterwards: `fold_in(fold_in(key, streams.NEGATIVES), position)`;
- a NumPy generator is seeded with a tuple, `default_rng((seed, streams.ORDER, epoch))`. All
  tuples of a stream have the same length: to NumPy (1, 2) and (1, 2, 0) are the same seed.

Numbers begin above what is counted from 0 where a key is folded without a stream: the parts of a
network in `models.net`. A number that is changed changes the results of every run.

The augmentation does not appear here: it has a generator of its own, `data.augment.draws`, because
hosts without JAX must draw the same numbers.
"""

# The run's key, `jax.random.key(seed)`.
INIT = 1001  # -> the key that `Method.init` gets
STEPS = 1002  # -> the key in the TrainState; with a step: the step's key
PICTURES = 1003  # with a seed of 0 -> the key that `Method.pictures` gets
SAMPLES = 1004  # with the seed of the samples -> the key that `Method.sample` gets
SAMPLE_CLASSES = 1005  # the key that `Method.sample` gets -> classes of which none were asked for
MIXTURES = 1006  # the key of a place of a sample -> the color out of a mixture's component
OWN_VIEW = 1007  # with epoch, example and view -> the key that a user's function of a view gets

# An evaluation's key, `jax.random.key(seed)`.
CORRUPTIONS = 1051  # with a kind and an example's index: how an image is corrupted

# A step's key.
TRANSFORM = 1101  # with a micro-batch -> the key that `Method.transform` gets
LOSS = 1102  # with a number for micro-batch and phase -> the key that `Method.loss` gets
REFRESH = 1103  # -> the key that `Refresh.apply` gets

# The key that `Method.transform` gets.
TILES = 1151  # with an example's global position: where tiles are cut, and their colors
TILE_PAIRS = 1152  # with an example's global position: which tiles are compared, and dropout
PUZZLES = 1153  # with an example's global position: how tiles are put together
EXEMPLARS = 1154  # with an example's global position: how its patch is changed
GRAY_PATCHES = 1155  # with an example's global position: which of its patches are gray

# A key made of a method's own seed.
SEED_PATCHES = 1181  # with an example's index: where its patch is, in every epoch

# The key that `Method.init` gets.
ONLINE = 1201  # the online network, or its first part
HEAD = 1202  # a head that is initialized apart from the backbone
TARGET = 1203  # a target network that is not a copy
PROBE = 1204  # the online probe's head
QUEUE = 1205  # a queue's first rows; with a crop where there are several
BANK = 1206  # a memory bank's first entries; with a crop where there are several
CENTROIDS = 1207  # the centroids before the first clustering; with a clustering
AUXILIARY = 1208  # the head of an auxiliary task

# The key that `Method.loss` gets.
SHUFFLE = 1301  # order of the examples in shuffled batch normalization; with a direction
NEGATIVES = 1302  # which rows of a memory are negatives; with an example's global position
DIVISION = 1303  # the parts of a batch that are whitened apart; with a draw
DROPOUT = 1305  # which activations are dropped; with an example's global position
DROP_PATH = 1304  # which branches are left out; with an example's global position
RESTARTS = 1311  # where dead codes of a codebook are put
GUMBEL = 1312  # with an example's global position: which codes are drawn
CODE_NOISE = 1313  # with an example's global position: codes that a prior reads wrongly
ANCHORS = 1314  # with an example's global position: which ones a detector's first loss sees
REGIONS = 1315  # the same of its second loss
DROPPED_CLASSES = 1316  # with an example's global position: classes that a prior is not told

# The key that `Method.transform` gets, each with an example's global position.
GEOMETRIC = 1501  # which of the geometric transforms
COUNTING = 1502  # how the whole image is made smaller
NOISE = 1511  # noise that is to be removed
HOLES = 1512  # which part of it is missing
MASKS = 1531  # which patches are masked
REPLACED = 1533  # what stands in the place of masked tokens
KEPT_PATCHES = 1535  # with a view: which of its patches are kept, where some are left out
MIXING = 1532  # without a position: how a batch's images are mixed

# Any of the keys that a method gets, where it is made of several methods.
PART = 1601  # with a number made of the part's name -> the key that the part gets

# The key that `Refresh.apply` gets.
CLUSTERING = 1401  # where k-means starts; with a clustering
FRESH_HEAD = 1402  # the head after a clustering
CLUSTER_REPAIR = 1403  # NumPy, with a seed drawn from the same key: how clusters are split

# NumPy generators, seeded with (seed, stream, ...).
ORDER = 2001  # (epoch): order of the training examples
KNN_HELD_OUT = 2002  # training images that are queries of the periodic k-NN
PROBE_HELD_OUT = 2003  # training images on which a classifier's settings are chosen
LABEL_SUBSET = 2004  # the training images that have labels
FEW_LABELS = 2005  # (draw), (class) with several labels: images of classifiers with few labels
RESCALING = 2006  # images that the encoder 'random_rescaled' is fitted to
REPORT_SAMPLE = 2007  # (part): images on the report's page
REPORT_GALLERY = 2008  # queries in the report's gallery
MIXED_ORDER = 2009  # (part, epoch): order of the examples of a part of a mixed order
PERMUTATIONS = 2010  # the first permutation of a jigsaw's set, and ties
STATISTICS = 2011  # images that mean and spread are taken of
FOLDS = 2012  # the parts of a cross-validation
SVM_PARTS = 2013  # (class): parts of the cross-validation of support vector machines
ROBUSTNESS_SUBSET = 2014  # test images that are corrupted, where not all are
RANDOM_PALETTE = 2015  # colors of a palette before it is fitted to the data
REPORT_MAP = 2016  # images on the map of the report's page
