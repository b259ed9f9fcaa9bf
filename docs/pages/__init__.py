"""Pages of the documentation that are generated: commands, settings, Python API, notebook."""
