"""Senses and carries: traces, wire format and journal; it decides nothing."""
