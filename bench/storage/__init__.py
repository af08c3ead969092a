"""The parts of `bench/partitions.py` and `bench/pages.py`."""
