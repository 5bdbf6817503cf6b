"""Machines we do not have: SmartSSD arrays, GPUs, fleets. Nothing is simulated yet."""
