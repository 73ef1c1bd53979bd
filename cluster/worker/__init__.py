"""What runs a shard: read, decode, infer and write, overlapped, on one proven execution provider."""
