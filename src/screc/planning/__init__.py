"""Planning: a measured host, access statistics and a budget in; the memory of every row out."""

from screc.planning.alternatives import Alternative, table_alternatives
from screc.planning.baseline_plan import make_baseline_plan
from screc.planning.baselines import BASELINES
from screc.planning.budget import format_bytes, parse_bytes
from screc.planning.check import PlanError, check_page_orders, check_plan
from screc.planning.compare import Comparison, PlannedRate, compare_plans, planned_rate
from screc.planning.dense import DenseShape
from screc.planning.explain import comparison_summary, plan_summary, table_summary
from screc.planning.mapping import MappingChoice, choose_mapping, map_layouts, with_mapping
from screc.planning.mip import SolverError
from screc.planning.picture import plot_plan
from screc.planning.plan import Assignment, Budget, Plan, PlanOptions, Prediction, TableAssignment
from screc.planning.planner import InfeasibleBudget, make_plan
from screc.planning.prediction import predict
from screc.planning.presets import gpu_node, reference_system, server, smartssd_array
from screc.planning.probe import measured_here, probe, probe_dense
from screc.planning.request import PlanRequest
from screc.planning.sensitivity import Additivity, Effect, Point, Sensitivity, TableSensitivity
from screc.planning.sensitivity_report import plot_sensitivity, sensitivity_summary
from screc.planning.sparse import sparse_index_bytes
from screc.planning.system import SystemSpec
from screc.planning.system_report import system_summary

__all__ = [
    "BASELINES",
    "Additivity",
    "Alternative",
    "Assignment",
    "Budget",
    "Comparison",
    "DenseShape",
    "Effect",
    "InfeasibleBudget",
    "MappingChoice",
    "Plan",
    "PlanError",
    "PlanOptions",
    "PlanRequest",
    "PlannedRate",
    "Point",
    "Prediction",
    "Sensitivity",
    "SolverError",
    "SystemSpec",
    "TableAssignment",
    "TableSensitivity",
    "check_page_orders",
    "check_plan",
    "choose_mapping",
    "compare_plans",
    "comparison_summary",
    "format_bytes",
    "gpu_node",
    "make_baseline_plan",
    "make_plan",
    "map_layouts",
    "measured_here",
    "parse_bytes",
    "plan_summary",
    "planned_rate",
    "plot_plan",
    "plot_sensitivity",
    "predict",
    "probe",
    "probe_dense",
    "reference_system",
    "sensitivity_summary",
    "server",
    "smartssd_array",
    "sparse_index_bytes",
    "system_summary",
    "table_alternatives",
    "table_summary",
    "with_mapping",
]
