"""Load on a server or an engine: open loop, Poisson arrivals, the highest load within a promised latency."""

from screc.serving.load.arrivals import poisson_arrivals
from screc.serving.load.capacity import Capacity, Search, Sla, find_capacity
from screc.serving.load.content import LogSamples, ModelShape, ZipfSamples
from screc.serving.load.drive import Pace, drive
from screc.serving.load.generator import LoadConfig, LoadGenerator
from screc.serving.load.sizes import SizeDistribution
from screc.serving.load.targets import EngineTarget, GrpcTarget, HttpTarget, open_target
from screc.serving.load.trace import Outcome, Summary, Trace

__all__ = [
    "Capacity",
    "EngineTarget",
    "GrpcTarget",
    "HttpTarget",
    "LoadConfig",
    "LoadGenerator",
    "LogSamples",
    "ModelShape",
    "Outcome",
    "Pace",
    "Search",
    "SizeDistribution",
    "Sla",
    "Summary",
    "Trace",
    "ZipfSamples",
    "drive",
    "find_capacity",
    "open_target",
    "poisson_arrivals",
]
