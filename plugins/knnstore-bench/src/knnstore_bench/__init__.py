"""What ``knnstore bench`` does: the same work on each backend, measured, and a page to decide from.

``workload`` says what is stored and asked, ``truth`` what the right answers are. ``session`` holds one store in a
process of its own, ``worker`` talks to it, ``steps`` are the measurements, ``runner`` takes them in turn and records
each in the ``journal``. ``summary`` makes figures of them, ``table`` and ``page`` show these.

Nothing is imported here: the processes that are measured load what they need and no more.
"""

__all__: list[str] = []
