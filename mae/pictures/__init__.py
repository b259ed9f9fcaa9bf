"""Pictures of a model's outputs: sheets as PNG or HTML, panels, heat maps and HTML pages."""
