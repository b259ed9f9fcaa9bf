"""The options of the commands.  Nothing here imports torch."""
