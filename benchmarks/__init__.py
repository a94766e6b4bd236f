"""Measurements: run as modules from the root of the repository; figures and machine in docs/performance.md."""
