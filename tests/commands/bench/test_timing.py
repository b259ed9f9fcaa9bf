"""Timing of tasks in turn."""

from mae.commands.bench.timing import interleaved


def test_tasks_run_in_turn_and_the_first_round_is_not_counted():
    order, progress = [], []

    def task(name):
        order.append(name)
        return float(len(order))

    seconds = interleaved(
        {"a": lambda: task("a"), "b": lambda: task("b")}, 2, lambda *rounds: progress.append(rounds)
    )
    assert order == ["a", "b"] * 3
    assert seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert progress == [(1, 3), (2, 3), (3, 3)]
