"""Watches several cameras: their states, the events, the record of them and the guard's page."""
