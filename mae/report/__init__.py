"""Report of a run as one HTML file: its records, diagnosis, charts and tables."""
