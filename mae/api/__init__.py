"""Python interface: training, trained encoders and objectives in a program or notebook.

Its public names are those of `mae` itself (`mae.train`, `mae.load` …).
"""
