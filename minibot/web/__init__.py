"""HTTP in both directions: the server behind the door, the calls that go out.

Next: `wire.py`.
"""
