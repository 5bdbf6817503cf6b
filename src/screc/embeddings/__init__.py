"""Embedding tables that can be trained, behind one contract (needs torch)."""

from screc.embeddings.banded import BandedTable
from screc.embeddings.collection import EmbeddingCollection
from screc.embeddings.contract import TableModule
from screc.embeddings.full import FullTable
from screc.embeddings.tensor_train import TensorTrain

__all__ = ["BandedTable", "EmbeddingCollection", "FullTable", "TableModule", "TensorTrain"]
