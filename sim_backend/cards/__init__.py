"""Facts about GPUs, language models, serving engines and servers, one TOML file each, every number with its source."""
