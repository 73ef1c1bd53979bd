"""The REST API under /api/v1: typed, versioned, and the only way to change anything from outside."""
