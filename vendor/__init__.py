"""Models of others that the worker runs beside its own: one folder for each, with a README.md of its own. All code is ours."""
