"""Frames as people see them: boxes and decisions drawn, and faces blurred that nobody asked for."""
