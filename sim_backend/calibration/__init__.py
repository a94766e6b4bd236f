"""Fits that produce the numbers of the shipped cards: deterministic, from recordings outside the repository."""
