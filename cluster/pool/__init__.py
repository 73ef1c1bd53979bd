"""Who works: processes here or on a Ray cluster that take tasks, and who of them sits where."""
