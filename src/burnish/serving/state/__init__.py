"""Everything that outlives the process: the database, and uploaded bytes stored by their hash."""
