"""Access statistics of embedding tables, and metrics of predictions."""

from screc.statistics.access import AccessStatistics, TableStatistics
from screc.statistics.curve import AccessCurve
from screc.statistics.metrics import Metrics, StreamingMetrics, area_under_curve
from screc.statistics.page_order import PageOrderConfig, PageOrders, PageReads, make_page_orders
from screc.statistics.plot import plot_statistics
from screc.statistics.summary import page_order_summary, statistics_summary

__all__ = [
    "AccessCurve",
    "AccessStatistics",
    "Metrics",
    "PageOrderConfig",
    "PageOrders",
    "PageReads",
    "StreamingMetrics",
    "TableStatistics",
    "area_under_curve",
    "make_page_orders",
    "page_order_summary",
    "plot_statistics",
    "statistics_summary",
]
