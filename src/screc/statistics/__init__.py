"""Access statistics of embedding tables: counts by rank, access curves, mean pooling and coverage."""

from screc.statistics.access import AccessStatistics, TableStatistics
from screc.statistics.curve import AccessCurve
from screc.statistics.plot import plot_statistics

__all__ = ["AccessCurve", "AccessStatistics", "TableStatistics", "plot_statistics"]
