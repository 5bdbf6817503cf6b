"""Comparing compression methods: a grid of models, methods, budgets and seeds on one data set."""

from screc.training.compare.grid import Cell, Grid, Settings
from screc.training.compare.report import write_report
from screc.training.compare.runner import run_grid
from screc.training.compare.table import Comparison

__all__ = ["Cell", "Comparison", "Grid", "Settings", "run_grid", "write_report"]
