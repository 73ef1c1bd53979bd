"""The write side of the artifact store; `runtime.store` is the read side."""
