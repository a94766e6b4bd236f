"""Equations of latency, power and protection, stated once; parameters are instances held by whoever uses them."""
