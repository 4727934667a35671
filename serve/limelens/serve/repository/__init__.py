"""The model repository: its versions, their validation, canaries, rollback and reload."""
