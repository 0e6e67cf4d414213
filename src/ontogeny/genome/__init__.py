"""READ: checkpoint -> genome."""
