"""The verbs of the `vedette` command that need nothing but the runtime, one module each."""
