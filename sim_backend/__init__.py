"""Pretends: servers, meters, command paths, breakers and workloads, on a clock of its own."""
