"""The controller's verbs of the `vedette` command."""
