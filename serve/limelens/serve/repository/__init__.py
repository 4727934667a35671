"""The model repository: which versions are served, and how they come and go.

model_repository   scans a folder, swaps versions, rolls them back
  registry         the versions that are served, as requests see them
  canary           counts the first results of a version that took over
reload             when to scan
validation         checks a file in a process of its own
hold_back          which versions may take over
  judging          compares a version with the one that it would replace
version_policy     which versions are wanted
model_version      the versions of a model, and how a scan changes them
"""
