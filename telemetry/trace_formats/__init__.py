"""Recordings as they come: one file per format, each knows its own files and reads them in blocks."""
