"""The devices: who they are, what they say, and what they are sent."""
