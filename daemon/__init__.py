"""Does: the command line, the site file, and later the shells around the cores."""
