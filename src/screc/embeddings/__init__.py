"""Embedding tables that can be trained, behind one contract (needs torch)."""

from screc.embeddings.adapt import AdaptEmb
from screc.embeddings.banded import BandedTable
from screc.embeddings.budget import BudgetError
from screc.embeddings.cafe import Cafe
from screc.embeddings.clustered import Clustered
from screc.embeddings.coded import MultiGranularCodes, ProductCodes
from screc.embeddings.collection import EmbeddingCollection
from screc.embeddings.compositional import QuotientRemainder
from screc.embeddings.compress import CompressedBag, compress, methods_of
from screc.embeddings.contract import TableModule
from screc.embeddings.deep_hash import DeepHash
from screc.embeddings.full import FullTable
from screc.embeddings.hash import EqualCapHash, HashRows
from screc.embeddings.hot_cold import HotCold
from screc.embeddings.low_precision import AdaptiveSteps, IntegerRows
from screc.embeddings.mem_rec import MemRec
from screc.embeddings.memcom import MEmCom
from screc.embeddings.method import METHODS, Method, make_method, register
from screc.embeddings.mixed_dimension import MixedDimension
from screc.embeddings.projection import Projection
from screc.embeddings.pruned import DeepLight, LearnedThreshold
from screc.embeddings.quantised import Dqrm, LearnedClip, LearnedStep
from screc.embeddings.robe import Robe
from screc.embeddings.rounded import RoundedTable
from screc.embeddings.tensor_ring import TensorRing
from screc.embeddings.tensor_train import TensorTrain
from screc.embeddings.tt_rec import TtRec
from screc.embeddings.whole import WholeTables

__all__ = [
    "METHODS",
    "AdaptEmb",
    "AdaptiveSteps",
    "BandedTable",
    "BudgetError",
    "Cafe",
    "Clustered",
    "CompressedBag",
    "DeepHash",
    "DeepLight",
    "Dqrm",
    "EmbeddingCollection",
    "EqualCapHash",
    "FullTable",
    "HashRows",
    "HotCold",
    "IntegerRows",
    "LearnedClip",
    "LearnedStep",
    "LearnedThreshold",
    "MEmCom",
    "MemRec",
    "Method",
    "MixedDimension",
    "MultiGranularCodes",
    "ProductCodes",
    "Projection",
    "QuotientRemainder",
    "Robe",
    "RoundedTable",
    "TableModule",
    "TensorRing",
    "TensorTrain",
    "TtRec",
    "WholeTables",
    "compress",
    "make_method",
    "methods_of",
    "register",
]
