"""The record of what happened: events, their images and explanations, in SQLite."""
