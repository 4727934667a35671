"""Explanations on the session that serves: one image explained, and the threads that do it."""
