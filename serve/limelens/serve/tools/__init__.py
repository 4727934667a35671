"""Programs that are clients of a server or of a model: camera, search, doctor, load, report."""
