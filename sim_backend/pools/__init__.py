"""Serving engines in pools: prefill and decode on one server or apart, whole prompts or chunks, one engine for all."""
