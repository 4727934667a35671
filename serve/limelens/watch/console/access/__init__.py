"""Who may see the page, and who may change something through it."""
