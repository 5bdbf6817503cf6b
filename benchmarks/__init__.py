"""Benchmarks of SCRec against its peers: ``python benchmarks/run.py JOB --json FILE``."""
