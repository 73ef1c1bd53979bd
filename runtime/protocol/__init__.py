"""What controller and devices say to each other over MQTT (DESIGN.md §5)."""
