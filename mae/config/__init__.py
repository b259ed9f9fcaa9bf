"""Settings of a run: types, sections, validation, loading."""
