"""The device service: configuration, presence, sessions, status."""
