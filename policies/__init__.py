"""Decides: (event, now) in, commands out. No clock, no socket, no file, no logging, no randomness of its own."""

from policies.registry import POLICIES, make_policy

__all__ = ["POLICIES", "make_policy"]
