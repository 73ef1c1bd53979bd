"""`vedette demo`: the main job end to end, through the same commands and processes that a user has."""
