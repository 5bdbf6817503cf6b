"""Access statistics of embedding tables, and metrics of predictions."""

from screc.statistics.access import AccessStatistics
from screc.statistics.block_order import BlockReads, CoAccess, PageOrderConfig, measure_co_access
from screc.statistics.curve import AccessCurve
from screc.statistics.distinct import DistinctRows
from screc.statistics.drift import HotSet, TableDrift, measure_drift
from screc.statistics.metrics import Metrics, StreamingMetrics, area_under_curve
from screc.statistics.page_order import PageOrders, PageReads, make_page_orders
from screc.statistics.plot import plot_statistics
from screc.statistics.summary import (
    co_access_summary,
    drift_summary,
    page_order_summary,
    statistics_summary,
)
from screc.statistics.table import TableStatistics
from screc.statistics.tail import Tail

__all__ = [
    "AccessCurve",
    "AccessStatistics",
    "BlockReads",
    "CoAccess",
    "DistinctRows",
    "HotSet",
    "Metrics",
    "PageOrderConfig",
    "PageOrders",
    "PageReads",
    "StreamingMetrics",
    "TableDrift",
    "TableStatistics",
    "Tail",
    "area_under_curve",
    "co_access_summary",
    "drift_summary",
    "make_page_orders",
    "measure_co_access",
    "measure_drift",
    "page_order_summary",
    "plot_statistics",
    "statistics_summary",
]
