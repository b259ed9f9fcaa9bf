"""Documentation: its pages, and the program that builds the site."""
