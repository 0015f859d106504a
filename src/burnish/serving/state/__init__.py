"""What outlives the process: the database and the files behind their hashes."""
