"""TensorLy's tensor-train decomposition of a table, at its fastest."""

from __future__ import annotations

import numpy as np

from benchmarks.peers import AbsentError
from screc.storage.layout import TtShape


class TensorlyTt:
    """``tensorly.decomposition.tensor_train`` with the randomised SVD, in float32, on NumPy's BLAS threads.

    Its other SVDs are no choice for large tables: the full one took 116 s where this took 6, and the one by
    eigenvectors makes the Gram matrix of the longer side.

    Raises:
        AbsentError: TensorLy is not installed.
    """

    def __init__(self, shape: TtShape) -> None:
        try:
            import tensorly
            from tensorly.decomposition import tensor_train
        except ImportError as error:
            raise AbsentError(f"tensorly: {error}") from error
        self.shape, self.version, self._decompose = shape, tensorly.__version__, tensor_train

    def prepare(self, table: np.ndarray) -> np.ndarray:
        """The table as the tensor that is decomposed, [p_0 q_0, p_1 q_1, ..]: what TensorLy's own
        ``tensor_train_matrix`` does first, by the same transposition."""
        cores = self.shape.num_cores
        digits = table.reshape(*self.shape.row_factors, *self.shape.col_factors)
        axes = [axis for k in range(cores) for axis in (k, cores + k)]
        modes = [p * q for p, q in zip(self.shape.row_factors, self.shape.col_factors, strict=True)]
        return digits.transpose(axes).reshape(modes)

    def fit(self, tensor: np.ndarray) -> list[np.ndarray]:
        """Cores float32 [r_k, p_k, q_k, r_{k+1}] of a prepared table."""
        factors = self._decompose(
            tensor, list(self.shape.ranks), svd="randomized_svd", random_state=0
        ).factors
        return [
            np.ascontiguousarray(factor.reshape(self.shape.core_shape(k)), np.float32)
            for k, factor in enumerate(factors)
        ]
