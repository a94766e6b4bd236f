"""What a replay found, told to machines (JSON), to a terminal (table) and to whoever decides (HTML, SVG)."""
