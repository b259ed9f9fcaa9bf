"""Results as Markdown tables."""

from mae.commands.bench.tables import markdown


def test_tables_are_markdown():
    assert list(markdown(["", "much"], [["a", "1"], ["bcd", "1,234"]])) == [
        "|     |  much |",
        "| --- | ----: |",
        "| a   |     1 |",
        "| bcd | 1,234 |",
    ]
