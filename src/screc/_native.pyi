"""
SCRec's compiled core: kernels, direct reads, the row store and the engine.
"""

from collections.abc import Sequence
import os
from typing import Annotated

import numpy
from numpy.typing import NDArray


def isa() -> str:
    """
    The instruction set in use: the best this machine has, or the one that SCREC_ISA forces.
    """

def supported_isas() -> list[str]:
    """Every instruction set that can run here, slowest first."""

class ThreadPool:
    """
    Worker threads that share one loop at a time with the caller.

    num_threads counts the caller; 0 means one per available core.
    """

    def __init__(self, num_threads: int = 0) -> None: ...

    @property
    def num_threads(self) -> int:
        """Threads, the caller included."""

def gather_rows(rows: Annotated[NDArray, dict(device='cpu', writable=False)], ids: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')], pool: ThreadPool | None = None, isa: str | None = None) -> None:
    """
    out[i] = rows[ids[i]].

    rows float32 [N, d], ids int64 [n], out float32 [n, d]. ValueError for an id outside [0, N).
    """

def pool_rows(rows: Annotated[NDArray, dict(device='cpu', writable=False)], ids: Annotated[NDArray, dict(device='cpu', writable=False)], offsets: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')], mean: bool = False, format: str = 'fp32', scale: tuple[float, float] | None = None, pool: ThreadPool | None = None, isa: str | None = None) -> None:
    """
    out[b] = sum (or mean) of rows[ids[offsets[b]:offsets[b + 1]]]; an empty bag gives zeros.

    rows float32 [N, d], or uint8 [N, row_bytes] in another format (see encode_rows); ids int64 [n],
    offsets int64 [B + 1], out float32 [B, d]. ValueError for an id outside [0, N) and for offsets that do not rise from 0 to n.
    """

def tt_rows(cores: Sequence[Annotated[NDArray, dict(device='cpu', writable=False)]], ids: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')], pool: ThreadPool | None = None, isa: str | None = None) -> None:
    """
    Rebuilds rows of a tensor-train table (TT-Rec, arXiv 2101.11714, section 3).

    cores: float32 [r_k, p_k, q_k, r_(k+1)] each, ids int64 [n] below the product of all p_k, out
    float32 [n, product of all q_k]. Cores are repacked at each call; the row store keeps them packed.
    """

class Linear:
    """
    A dense layer, packed once for one instruction set and one precision: 'fp32', 'bf16' or 'int8'.

    weight float32 [out, in], bias float32 [out]; both are copied. An int8 layer needs range, float32
    [2, in]: the least and the largest value of each input, with 0 between them; values outside are
    clamped. ValueError for weights or ranges that are not finite. For tests, extensions=False does without
    VNNI and BF16 instructions, and isa 'amx-emulated' runs AMX's kernels on tiles in plain C++.
    """

    def __init__(self, weight: Annotated[NDArray, dict(device='cpu', writable=False)], bias: Annotated[NDArray, dict(device='cpu', writable=False)], precision: str = 'fp32', range: Annotated[NDArray, dict(device='cpu', writable=False)] | None = None, isa: str | None = None, extensions: bool = True) -> None: ...

    def encode(self, x: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')]) -> bool:
        """
        Writes x float32 [M, in] as this layer takes it: out float32, uint16 (bf16) or uint8 (int8) [M, in].

        False when a value is not finite.
        """

    def forward(self, x: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')], relu: bool = False, next: Linear | None = None, pool: ThreadPool | None = None) -> None:
        """
        out = x @ weight.T + bias, then max(0, out) with relu. x [M, in] as encode writes it, out [M, out]
        float32, or as the layer `next` takes it. A row's result does not depend on M.
        """

    @property
    def in_features(self) -> int:
        """Inputs of the layer."""

    @property
    def out_features(self) -> int:
        """Outputs of the layer."""

    @property
    def isa(self) -> str:
        """The instruction set the weights are packed for."""

def interact(features: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')], pool: ThreadPool | None = None, isa: str | None = None, bf16: bool = False) -> None:
    """
    Dot products of pairs of features, <f_i, f_j> for i in range(F) for j in range(i).

    features float32 [B, F, d], out float32 [B, F * (F - 1) / 2]. bf16 rounds the features first;
    ValueError where the instruction set has no faster way for that. isa also takes 'amx-emulated'.
    """

def sigmoid(x: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')], pool: ThreadPool | None = None, isa: str | None = None) -> None:
    """out = 1 / (1 + exp(-x)) within 2e-7. x and out float32 [n]."""

def empty(num_bytes: int) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,))]:
    """
    Zeroed, 64-byte-aligned memory as uint8 [num_bytes], on huge pages where the system grants them.
    """

def row_bytes(format: str, dim: int, own_scale: bool = True) -> int:
    """
    Bytes of an encoded row (docs/format.md, 'Row formats'). own_scale: int8 and int4 rows begin with
    their scale and bias.
    """

def encode_rows(rows: Annotated[NDArray, dict(device='cpu', writable=False)], format: str, out: Annotated[NDArray, dict(device='cpu')], scale: tuple[float, float] | None = None, first_row: int = 0) -> None:
    """
    Writes rows (float32 [n, dim]) in a row format into out (uint8 [n, row_bytes]), to nearest.

    scale: (scale, bias) that all int8 or int4 rows share; None gives each row its own. Raises ValueError
    for a value that the format cannot hold, naming its row counted from first_row.
    """

def decode_rows(rows: Annotated[NDArray, dict(device='cpu', writable=False)], format: str, out: Annotated[NDArray, dict(device='cpu')], scale: tuple[float, float] | None = None, isa: str | None = None) -> None:
    """
    Values of encoded rows (uint8 [n, row_bytes]) into out (float32 [n, dim]); codes give
    bias + scale * code, rounded once.
    """

def crc32c(data: object, seed: int = 0) -> int:
    """
    CRC32C (Castagnoli) of a C-contiguous buffer. seed: the checksum of the bytes before it.
    """

def crc32c_zeros(count: int, seed: int = 0) -> int:
    """
    CRC32C (Castagnoli) of count bytes of zeros. seed: the checksum of the bytes before them.
    """

def crc32c_file(path: str | os.PathLike) -> int:
    """
    CRC32C (Castagnoli) of a whole file; holes count as zeros and are not read. Raises OSError.
    """

def read_into(path: str | os.PathLike, offset: int, out: Annotated[NDArray, dict(device='cpu')]) -> None:
    """
    Fills out (uint8 [n]) with the file's bytes from offset. Raises OSError when the file ends before.
    """

class PageReader:
    """
    Reads 4 KiB pages of one file past the page cache, many at a time.

    io: 'auto' (io_uring where the system lets us use it, else pread), 'io_uring' or 'pread'.
    queue_depth: reads in flight; each holds a 4 KiB buffer.

    Raises OSError when the file is missing or not of whole pages, or io_uring is refused.
    """

    def __init__(self, path: str | os.PathLike, io: str = 'auto', queue_depth: int = 256) -> None: ...

    @property
    def backend(self) -> str:
        """'io_uring' or 'pread'."""

    @property
    def queue_depth(self) -> int:
        """Reads in flight at most."""

    @property
    def num_pages(self) -> int:
        """Pages of 4096 bytes in the file."""

    @property
    def direct(self) -> bool:
        """
        False when the file system refused O_DIRECT: reads go through the page cache.
        """

    def read(self, pages: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')]) -> None:
        """
        Reads pages (int64 [n]) into out (uint8 [n, 4096]). Raises OSError naming file and page.
        """

class StoreStats:
    """
    Counts since the store was made. dram_rows + tt_rows + ssd_rows == lookups; calls that raised are not counted.
    """

    @property
    def lookups(self) -> int:
        """Ids looked up."""

    @property
    def dram_rows(self) -> int:
        """Look-ups that ended in a band of rows in DRAM."""

    @property
    def tt_rows(self) -> int:
        """Look-ups that ended in a tensor-train band."""

    @property
    def ssd_rows(self) -> int:
        """Look-ups that ended in a band on SSD."""

    @property
    def default_rows(self) -> int:
        """
        Of ssd_rows, look-ups of rows whose page was never written: nothing is read for them.
        """

    @property
    def page_requests(self) -> int:
        """
        4 KiB pages that the other look-ups on SSD needed, one by one; pages_read after each is read once per call.
        """

    @property
    def pages_read(self) -> int:
        """4 KiB pages read."""

    @property
    def bytes_read(self) -> int:
        """Bytes read from SSD."""

    @property
    def cache_hits(self) -> int:
        """
        Rows on SSD of which the cache held a copy. cache_hits + cache_misses counts the distinct rows that
        calls wanted, call by call; ssd_rows every look-up.
        """

    @property
    def cache_misses(self) -> int:
        """Rows on SSD that were read."""

    @property
    def cache_admissions(self) -> int:
        """Rows that the cache took in."""

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache's rows and counts; at most what it was given."""

    @property
    def dram_bytes(self) -> int:
        """
        Bytes of rows, cores, indices, cache and the copies of strategies and of cores in DRAM.
        """

    @property
    def io_backend(self) -> str:
        """'io_uring' or 'pread'; 'none' without SSD bands."""

    @property
    def direct_io(self) -> bool:
        """
        False when the file system of some band refused O_DIRECT: reads go through the page cache.
        """

    @property
    def queue_depth(self) -> int:
        """Page reads in flight at most."""

    @property
    def num_threads(self) -> int:
        """Threads that look-ups share, the caller included."""

class Ticket:
    """
    A look-up that has begun; given up when it is deleted unfinished. Safe to share between threads.
    """

    def poll(self) -> None:
        """
        Lets reads from SSD go on, without waiting: at most queue_depth of them are in flight at a time.
        """

    def finish(self) -> None:
        """
        Waits for the rows; out is then complete. Raises OSError naming file and page for a damaged page and
        RuntimeError when it was called before.
        """

class RowStore:
    """
    Rows of huge tables by id, wherever they live: DRAM, tensor-train cores, SSD pages.

    io: 'auto' (io_uring where the system lets us use it, else pread), 'io_uring' or 'pread'. queue_depth: page
    reads in flight of each look-up. threads: 0 means one per core. cache_bytes: DRAM for a cache of rows on SSD, 0
    for none; cache_policy: which rows stay in it, 'sketch' or 'lru'. An index is None (the last band, addressed by id),
    ('order', slots uint32) (the last band, its slots in another order), ('bitmap', bits uint64, directory uint32) or ('hash', keys int64, slots uint32) as in docs/format.md. Arrays
    are kept alive, not copied; they must not change. Calls may come from several threads.
    """

    def __init__(self, io: str = 'auto', queue_depth: int = 256, threads: int = 0, cache_bytes: int = 0, cache_policy: str = 'sketch') -> None: ...

    def add_table(self, num_embeddings: int, embedding_dim: int, mean: bool = False) -> int:
        """
        Adds a table and returns its number. mean: bags are averaged, not summed.
        """

    def add_dram_band(self, table: int, rows: Annotated[NDArray, dict(device='cpu', writable=False)], index: object | None = None, format: str = 'fp32', scale: tuple[float, float] | None = None) -> None:
        """
        Adds rows, float32 [slots, dim] or in another format uint8 [slots, row_bytes], as the next band.

        scale: (scale, bias) that all int8 or int4 rows share; None where each row begins with its own.
        """

    def add_tt_band(self, table: int, cores: Sequence[Annotated[NDArray, dict(device='cpu', writable=False)]], index: object | None = None) -> None:
        """
        Adds cores, each float32 [r_k, p_k, q_k, r_k+1] (docs/format.md), as the next band; they are copied.
        """

    def add_ssd_band(self, table: int, path: str | os.PathLike, band: int, index: object | None = None, format: str = 'fp32', scale: tuple[float, float] | None = None, written: object | None = None, default_row: object | None = None) -> None:
        """
        Adds a file of pages as the next band; its pages must carry this table and band number.
        format and scale: as for add_dram_band.
        written: for a sparse band, the page groups (slot // rows a page) that were written, as ('bitmap', bits,
        directory) or ('hash', keys, slots); rows of all others are default_row (uint8 [row_bytes], copied) and
        nothing is read for them.

        Raises OSError when the file is missing, has the wrong size, or its first or last page is damaged.
        """

    def set_strategy(self, table: int, name: str) -> None:
        """
        How the table's rows are fetched: 'gather' (the default), 'private', 'stream', 'private_stream' or
        'counts'. The table's only band must be in DRAM, of fp32 rows but for 'private'. Answers stay the same to the bit,
        except that 'counts' adds the look-ups of one row in a bag as one product. Raises ValueError where
        the table cannot have the strategy.
        """

    def strategy(self, table: int) -> str:
        """The table's strategy."""

    def set_mapping(self, mapping: Sequence[tuple[str, Sequence[int], str]]) -> None:
        """
        Whose each table is in the asymmetric data flow: (strategy, cores, split) for every table, or [] for no
        such flow. cores are ascending numbers of threads; [] leaves the table to all. split, among several cores, is
        'columns' (of every row, strategy 'private') or 'samples'. Worker threads then stay on cores of their own.
        Raises ValueError naming the table and the reason.
        """

    @property
    def has_mapping(self) -> bool:
        """Whether there is an asymmetric data flow."""

    def gather(self, table: int, ids: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')]) -> None:
        """
        Rows of ids (int64 [n]) into out (float32 [n, dim]). Raises ValueError for an id outside the table and
        OSError naming file and page for a damaged page; out is then undefined.
        """

    def lookup(self, ids: Annotated[NDArray, dict(device='cpu', writable=False)], offsets: Annotated[NDArray, dict(device='cpu', writable=False)], batch_size: int, out: Annotated[NDArray, dict(device='cpu')], data_flow: str = 'symmetric') -> None:
        """
        Pools the bags of all tables (ids int64 [nnz], offsets int64 [T * B + 1], table-major) into out
        (float32 [B, sum of dims]). An empty bag gives zeros. data_flow: 'symmetric', where every thread takes a
        part of the samples, or 'asymmetric', where it takes what set_mapping gave its core; the bits are the same.
        Raises as gather does, and RuntimeError for 'asymmetric' without a mapping.
        """

    def begin(self, ids: Annotated[NDArray, dict(device='cpu', writable=False)], offsets: Annotated[NDArray, dict(device='cpu', writable=False)], batch_size: int, out: Annotated[NDArray, dict(device='cpu')], data_flow: str = 'symmetric') -> Ticket:
        """
        The first half of lookup: starts the reads from SSD and does all work that need not wait for them.
        ids and offsets must not change, and out is undefined, until the ticket's finish(). Raises as lookup
        does, and RuntimeError when 8 tickets are in flight.
        """

    def stats(self) -> StoreStats:
        """A StoreStats of this moment."""

    @property
    def num_tables(self) -> int:
        """Tables."""

    @property
    def total_dim(self) -> int:
        """Sum of the tables' embedding dimensions."""

def fill_pages(rows: Annotated[NDArray, dict(device='cpu', writable=False)], table: int, band: int, first_page: int, out: Annotated[NDArray, dict(device='cpu')]) -> None:
    """
    Packs rows (uint8 [n, row_bytes]) into out (uint8 [p, 4096]), pages numbered from first_page.

    To write a band in pieces, all but the last must have a multiple of the rows that fit a page.
    """

def check_pages(pages: Annotated[NDArray, dict(device='cpu', writable=False)], table: int, band: int, first_page: int) -> int:
    """
    Index of the first page of pages (uint8 [p, 4096]) that is damaged or not page first_page + index of
    that table and band; -1 when all are good.
    """

def build_hash_index(ids: Annotated[NDArray, dict(device='cpu', writable=False)], slots: Annotated[NDArray, dict(device='cpu', writable=False)], keys_out: Annotated[NDArray, dict(device='cpu')], slots_out: Annotated[NDArray, dict(device='cpu')]) -> None:
    """
    Fills the hash index (docs/format.md) of ids (int64 [n], unique) and their slots (uint32 [n]) into
    keys_out (int64 [c], c > n) and slots_out (uint32 [c]).
    """

def order_by_co_access(rows: Annotated[NDArray, dict(device='cpu', writable=False)], groups: Annotated[NDArray, dict(device='cpu', writable=False)], num_groups: int, rows_per_page: int, iterations: int, order: Annotated[NDArray, dict(device='cpu')], pool: ThreadPool | None = None) -> None:
    """
    Orders rows 0 to n - 1 so that rows read together share pages of rows_per_page rows.

    Row rows[i] is in group groups[i], each pair once (uint32 [pairs]; groups below num_groups); order
    (uint32 [n]) holds the first order, any permutation, and receives the answer. Recursive bisection, at
    most `iterations` rounds of exchanges per cut. The answer does not depend on the pool.
    """

class RowProjection:
    """
    The rows of a band contracted with the last core of a tensor train.

    core float32 [R, P, Q]; left_columns is the product of the columns of the cores before it.
    """

    def __init__(self, core: Annotated[NDArray, dict(device='cpu', writable=False)], left_columns: int, pool: ThreadPool, isa: str | None = None) -> None: ...

    def add(self, rows: Annotated[NDArray, dict(device='cpu', writable=False)], prefixes: Annotated[NDArray, dict(device='cpu', writable=False)], weights: Annotated[NDArray, dict(device='cpu', writable=False)], z: Annotated[NDArray, dict(device='cpu')], e: Annotated[NDArray, dict(device='cpu')]) -> float:
        """
        For n prefixes of P slots: z [n, C, R] = sum over i, j of w row[i, (c, j)] core[b, i, j] and the
        lower triangles of e [n, R, R] = sum over i, j of w core[a, i, j] core[b, i, j], by rows.

        rows float32 [N, C * Q]; prefixes int64 [n], k being rows P k to P k + P - 1; weights float32 [n * P].
        Returns the sum of w |row|^2. Rows of weight 0 are not read and may lie beyond N.
        """

class RowCorrelation:
    """
    The rows of a band contracted with all cores but the last: the last core's normal equations.

    left float32 [M, C', R'] is the product of all cores before the last two, middle float32 [R', I, Q', R].
    """

    def __init__(self, left: Annotated[NDArray, dict(device='cpu', writable=False)], middle: Annotated[NDArray, dict(device='cpu', writable=False)], slices: int, columns: int, pool: ThreadPool, isa: str | None = None) -> None: ...

    def add(self, rows: Annotated[NDArray, dict(device='cpu', writable=False)], prefixes: Annotated[NDArray, dict(device='cpu', writable=False)], weights: Annotated[NDArray, dict(device='cpu', writable=False)], first_left: int, first_middle: int, num_middles: int) -> None:
        """
        Adds prefixes (m, i): m from first_left on and, for each, num_middles of i from first_middle on.

        rows, prefixes and weights are as RowProjection.add takes them.
        """

    def sums(self, right: Annotated[NDArray, dict(device='cpu')], normal: Annotated[NDArray, dict(device='cpu')]) -> None:
        """
        Writes right float64 [slices, R, columns] = sum of w row L, L[(m, i)][(c', j')][b] being left times
        middle, and the lower triangles of normal float64 [slices, R, R] = sum of w L L, by rows.
        """

class MiddleSolver:
    """
    Slices of a core by least squares, the cores after it being contracted away.

    left float32 [M, C, R'] is the product of the cores before, which is read here and not kept; columns and
    rank are Q and R of the core [R', I, Q, R].
    """

    def __init__(self, left: Annotated[NDArray, dict(device='cpu', writable=False)], columns: int, rank: int, pool: ThreadPool, isa: str | None = None) -> None: ...

    def solve(self, e: Annotated[NDArray, dict(device='cpu', writable=False)], z: Annotated[NDArray, dict(device='cpu', writable=False)], slices: Annotated[NDArray, dict(device='cpu')], e_out: Annotated[NDArray, dict(device='cpu')], z_out: Annotated[NDArray, dict(device='cpu')]) -> None:
        """
        Lowers, for each slice i, sum over m of <P e[m, i], P> - 2 <P, z[m, i]> with P = left[m] slices[i].

        e holds the lower triangles of float32 [M, n, R, R], by rows; z float32 [M, n, C, Q, R], slices float32
        [n, R', Q, R]. The same two for the cores before are added to e_out float64 [M, R', R'] and z_out
        float64 [M, C, R'].
        """

    @staticmethod
    def bytes(lefts: int, before: int, inner: int, columns: int, rank: int, pool: ThreadPool, isa: str | None = None) -> int:
        """Bytes that a solver for left [lefts, before, inner] takes."""

class Submitted:
    """A batch that an Engine works on; see Engine.submit."""

    def __init__(self, engine: Engine, dense: Annotated[NDArray, dict(device='cpu', writable=False)], ids: Annotated[NDArray, dict(device='cpu', writable=False)], offsets: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')]) -> None:
        """
        Begins the look-ups of a batch (arguments as Engine.predict takes them), which must not change until it is
        collected.
        """

    def collect(self) -> None:
        """
        Returns when the predictions are in out. Raises as Engine.predict does. A second call does nothing.
        """

class Engine:
    """
    Runs a DLRM (arXiv 1906.00091) over the tables of a RowStore.

    bottom and top are lists of (weight float32 [out, in], bias float32 [out], precision,
    range float32 [2, in] or None), copied; see Linear for the last two. interaction is
    'dot' or 'cat'. ValueError names the layer or table that does not fit.
    """

    def __init__(self, store: RowStore, num_dense: int, embedding_dim: int, bottom: Sequence[tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], str, Annotated[NDArray, dict(device='cpu', writable=False)] | None]], top: Sequence[tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], str, Annotated[NDArray, dict(device='cpu', writable=False)] | None]], interaction: str) -> None: ...

    def predict(self, dense: Annotated[NDArray, dict(device='cpu', writable=False)], ids: Annotated[NDArray, dict(device='cpu', writable=False)], offsets: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')]) -> None:
        """
        Writes the probability of each sample to out float32 [B].

        dense float32 [B, num_dense], ids int64 [nnz], offsets int64 [T * B + 1], table-major. ValueError for
        a dense value that is not finite, and for bad offsets and ids. Calls from several threads take turns.
        """

    def replay(self, batches: Sequence[tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)]]], arrivals: Annotated[NDArray, dict(device='cpu', writable=False)], clients: int, latencies: Annotated[NDArray, dict(device='cpu')]) -> None:
        """
        Writes the seconds that each of many requests took to latencies float64 [R]; see screc.serving.Engine.replay.

        batches is a list of (dense, ids, offsets) as predict takes them, arrivals float64 [R]. ValueError as in
        predict, and for arrivals and clients.
        """

    def set_roles(self, memory: int, compute: int) -> None:
        """
        Threads that look up and threads that compute; 0 and 0: every thread does both. RuntimeError while batches
        are submitted and not collected.
        """

    @property
    def roles(self) -> tuple[int, int]:
        """(memory, compute) threads; (0, 0) when every thread does both."""

    @property
    def data_flow(self) -> str:
        """
        'symmetric', or 'asymmetric': each thread looks up what the store's mapping gives its core. RuntimeError
        without a mapping, and while batches are submitted and not collected.
        """

    @data_flow.setter
    def data_flow(self, arg: str, /) -> None: ...

    def layer_inputs(self, dense: Annotated[NDArray, dict(device='cpu', writable=False)], ids: Annotated[NDArray, dict(device='cpu', writable=False)], offsets: Annotated[NDArray, dict(device='cpu', writable=False)], layer: int, out: Annotated[NDArray, dict(device='cpu')]) -> None:
        """
        Writes the inputs of one layer, bottom layers counted first, to out float32 [B, in].

        What calibration looks at. ValueError as in predict, and where a layer is not fp32.
        """

    @property
    def isa(self) -> str:
        """The instruction set in use."""

    @property
    def num_threads(self) -> int:
        """Threads that work on one call, the caller included."""

class Histogram:
    """Counts of values in buckets."""

    @property
    def bounds(self) -> list[float]:
        """The greatest value of each bucket; the last has no bound."""

    @property
    def counts(self) -> list[int]:
        """Values in each bucket alone: one count more than bounds."""

    @property
    def sum(self) -> float:
        """Of all values."""

class QueryForm:
    """
    Which tables and dense columns a query gives once, for all of its samples.
    """

    def __init__(self, tables: Sequence[tuple[str, int]], num_dense: int, context_tables: Sequence[int] = [], context_columns: Sequence[int] = []) -> None:
        """
        tables are (name, rows). ValueError names a table or column that is out of range or given twice.
        """

class Admission:
    """What a Batcher said to a query."""

    @property
    def verdict(self) -> str:
        """'accepted', 'queue full', 'too late' or 'draining'."""

    @property
    def ticket(self) -> int:
        """Of an accepted query."""

    @property
    def predicted_wait(self) -> float:
        """Seconds until the query's turn."""

class Completion:
    """The end of a query."""

    @property
    def ticket(self) -> int: ...

    @property
    def outcome(self) -> str:
        """'done', 'expired', 'cancelled' or 'failed'."""

    @property
    def queue_seconds(self) -> float:
        """Until its first sample was taken up."""

    @property
    def request_seconds(self) -> float:
        """Until the end."""

    @property
    def error(self) -> str:
        """Of a query that failed."""

class BatcherStats:
    """
    What a Batcher has done since it was made.

    accepted == done + failed + expired + cancelled + those still in it.
    """

    @property
    def accepted(self) -> int:
        """Queries."""

    @property
    def accepted_samples(self) -> int: ...

    @property
    def done(self) -> int: ...

    @property
    def failed(self) -> int: ...

    @property
    def expired(self) -> int: ...

    @property
    def cancelled(self) -> int: ...

    @property
    def refused_queue_full(self) -> int: ...

    @property
    def refused_too_late(self) -> int: ...

    @property
    def refused_draining(self) -> int: ...

    @property
    def batches(self) -> int: ...

    @property
    def batched_samples(self) -> int: ...

    @property
    def joined_batches(self) -> int:
        """Batches of several queries."""

    @property
    def queued(self) -> int:
        """Queries that wait now."""

    @property
    def queued_samples(self) -> int: ...

    @property
    def running_samples(self) -> int: ...

    @property
    def seconds_per_sample(self) -> float:
        """Of one worker, lately."""

    @property
    def queue_seconds(self) -> Histogram:
        """Of queries that were done."""

    @property
    def compute_seconds(self) -> Histogram:
        """Of batches."""

    @property
    def request_seconds(self) -> Histogram:
        """Of queries that were done."""

    @property
    def batch_samples(self) -> Histogram: ...

class Batcher:
    """
    Queries of many requests on their way through one Engine: joined, split, refused when there are too many.
    """

    def __init__(self, engine: Engine, max_batch: int = 96, split: int = 96, queue_delay: float = 0.0, max_queued: int = 65536, workers: int = 0) -> None:
        """
        max_batch, split and max_queued are samples, queue_delay seconds; workers 0 is one per thread of the
        engine. ValueError names the option.
        """

    def submit(self, form: QueryForm, out: Annotated[NDArray, dict(device='cpu')], timeout: float, *, dense: Annotated[NDArray, dict(device='cpu', writable=False)] | None = None, categorical: Annotated[NDArray, dict(device='cpu', writable=False)] | None = None, ids: Annotated[NDArray, dict(device='cpu', writable=False)] | None = None, offsets: Annotated[NDArray, dict(device='cpu', writable=False)] | None = None, context_dense: Annotated[NDArray, dict(device='cpu', writable=False)] | None = None, context_categorical: Annotated[NDArray, dict(device='cpu', writable=False)] | None = None, context_ids: Annotated[NDArray, dict(device='cpu', writable=False)] | None = None, context_offsets: Annotated[NDArray, dict(device='cpu', writable=False)] | None = None) -> Admission:
        """
        Takes in a query whose probabilities go to out float32 [B]. The arrays and the form must stay until its
        completion is taken. timeout: seconds in the queue, 0 for no end.

        dense float32 [B, columns]; categorical int64 [B, tables], one id each, or ids int64 [nnz] and offsets
        int64 [tables * B + 1], table-major; the same of the context, for B = 1. ValueError names the tensor,
        the place and the value.
        """

    def cancel(self, ticket: int) -> bool:
        """
        Drops a query, as far as it does not run; it completes all the same. False where it has.
        """

    @property
    def descriptor(self) -> int:
        """Readable when there are completions."""

    def take(self) -> list[Completion]:
        """The completions since the last call."""

    def drain(self, seconds: float) -> bool:
        """
        Refuses new queries from now on, and waits until nothing is left, or so many seconds; whether nothing is.
        """

    def stop(self) -> None:
        """
        Drops what waits, and returns when nothing runs; queries are refused from now on.
        """

    @property
    def split(self) -> int:
        """Most samples of a batch made of a part of one query."""

    @split.setter
    def split(self, arg: int, /) -> None: ...

    @property
    def max_batch(self) -> int: ...

    @property
    def max_queued(self) -> int: ...

    @property
    def queue_delay(self) -> float: ...

    @property
    def workers(self) -> int: ...

    def stats(self) -> BatcherStats: ...

class RankedRows:
    """What a RowCounter counted; see screc.statistics.counting."""

    @property
    def ids(self) -> Annotated[NDArray[numpy.int64], dict(shape=(None,), writable=False)]:
        """int64 [ranked], by descending count, then ascending."""

    @property
    def counts(self) -> Annotated[NDArray[numpy.int64], dict(shape=(None,), writable=False)]:
        """int64 [ranked], look-ups, or at least so many."""

    @property
    def errors(self) -> Annotated[NDArray[numpy.uint32], dict(shape=(None,), writable=False)]:
        """
        uint32 [ranked], how many more they may be; empty where all counts are exact.
        """

    @property
    def unranked_bound(self) -> int:
        """No other row was looked up more often."""

    @property
    def sample_level(self) -> int:
        """Each row was in the sample with probability 2^-level."""

    @property
    def unranked_sample(self) -> Annotated[NDArray[numpy.int64], dict(shape=(None,), writable=False)]:
        """
        int64 [n], exact counts of the rows in the sample that are not among ids.
        """

    @property
    def sample_rows(self) -> int:
        """Rows in the sample."""

    @property
    def sample_singletons(self) -> int:
        """Of these, rows looked up once."""

class RowCounter:
    """
    Counts the look-ups of one table in at most max_bytes: exactly while they suffice, then
    with stated bounds. `table` is for messages.
    """

    def __init__(self, table: str, num_embeddings: int, max_bytes: int) -> None: ...

    def add(self, ids: Annotated[NDArray, dict(device='cpu', writable=False)]) -> None:
        """
        Counts ids, int64 [n]; ValueError, and none counted, where one is outside.
        """

    def finish(self) -> RankedRows:
        """Ends counting, frees the counters and returns what they hold."""

    @property
    def num_lookups(self) -> int:
        """Ids counted."""

    @property
    def exact(self) -> bool:
        """Whether all counts so far are exact."""

    @property
    def bytes(self) -> int:
        """Memory of the counters now."""

def count_batch(counters: Sequence[RowCounter], ids: Annotated[NDArray, dict(device='cpu', writable=False)], offsets: Annotated[NDArray, dict(device='cpu', writable=False)], batch_size: int, pool: ThreadPool | None = None) -> Annotated[NDArray[numpy.int64], dict(shape=(None,))]:
    """
    Adds the bags of a batch (see screc.data.Batch) to one counter per table.

    Returns int64 [tables]: samples whose bag is not empty.
    """

def count_distinct(ids: Annotated[NDArray, dict(device='cpu', writable=False)], offsets: Annotated[NDArray, dict(device='cpu', writable=False)], batch_size: int, window: int, every: int = 1, pool: ThreadPool | None = None) -> Annotated[NDArray[numpy.int64], dict(shape=(None, None))]:
    """
    Different rows of every table in every every-th whole window of `window` samples of a batch.

    Returns int64 [tables, ceil((batch_size // window) / every)].
    """

class HotSketch:
    """
    Finds the hot ids of a stream of scored ids and lends each a row (CAFE, section 3).
    """

    def __init__(self, num_buckets: int, num_rows: int, threshold: float) -> None: ...

    def query(self, ids: Annotated[NDArray, dict(device='cpu', writable=False)], rows: Annotated[NDArray, dict(device='cpu')], pool: ThreadPool | None = None) -> None:
        """Writes the row lent to each id, or -1, into rows, int32 [n]."""

    def insert(self, ids: Annotated[NDArray, dict(device='cpu', writable=False)], scores: Annotated[NDArray, dict(device='cpu', writable=False)], pool: ThreadPool | None = None) -> tuple:
        """
        Adds float32 scores to ids, in order. Returns ids and rows, int32, of those that were lent one.
        """

    def decay(self, factor: float) -> tuple:
        """
        Multiplies all scores. Returns ids and rows of those that fell below the threshold.
        """

    def retune(self) -> tuple:
        """
        Raises the threshold to the score of the last id that there is a row for, where more than 1.05 times as
        many have reached it. Returns ids and rows of those that fell below it.
        """

    def state(self) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,))]:
        """A copy of the buckets, uint8 [64 * num_buckets]."""

    def restore(self, state: Annotated[NDArray, dict(device='cpu', writable=False)], threshold: float) -> None:
        """Takes over what state() gave."""

    @property
    def threshold(self) -> float:
        """Score from which on an id is lent a row."""

    @property
    def num_lent(self) -> int:
        """Rows that are lent."""

    @property
    def num_buckets(self) -> int:
        """Buckets of four ids, 64 bytes each."""

    @property
    def num_rows(self) -> int:
        """Rows of the pool."""
