"""Shows: empty in this release; will answer questions about the fleet and turn operators' overrides into events."""
