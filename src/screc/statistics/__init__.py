"""Access statistics of embedding tables, and metrics of predictions."""

from screc.statistics.access import AccessStatistics, TableStatistics
from screc.statistics.curve import AccessCurve
from screc.statistics.metrics import Metrics, StreamingMetrics, area_under_curve
from screc.statistics.plot import plot_statistics
from screc.statistics.summary import statistics_summary

__all__ = [
    "AccessCurve",
    "AccessStatistics",
    "Metrics",
    "StreamingMetrics",
    "TableStatistics",
    "area_under_curve",
    "plot_statistics",
    "statistics_summary",
]
