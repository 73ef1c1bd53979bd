"""How pictures are prepared for a model: presets, the files of other projects, and what its maker is known to do."""
