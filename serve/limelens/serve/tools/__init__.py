"""Programs around a server or a model: camera, search, doctor, load, report, folders for Triton."""
