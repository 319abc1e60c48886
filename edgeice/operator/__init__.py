"""The operator's library: find devices, open sessions, use services."""
