"""What is to be done next: shards, what happened to them, and what follows from it. Pure."""
