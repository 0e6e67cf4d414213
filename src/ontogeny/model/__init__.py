"""BUILD: genome -> network. Pure: nothing here trains."""
