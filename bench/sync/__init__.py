"""The parts of `bench/bridge.py`. They import the rooms: only inside `installation`."""
