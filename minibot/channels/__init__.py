"""The platforms, one file each, as pure functions: no network, no clock, no event loop.

Next: `contract.py`.
"""
