"""Batch jobs on a cluster: sent to Ray's job server, or to the controller's queue, and followed there."""
