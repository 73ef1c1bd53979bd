"""The message broker: who may log in and say what, and the brokers that hold to it."""
