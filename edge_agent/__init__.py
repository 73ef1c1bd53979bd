"""The device daemon (DESIGN.md §7)."""
