"""A run as one HTML file: read what the folder holds, judge, draw."""
