"""Drills: deliberate disasters, long or heavy, each with a pass mark. `python -m tests.drill` runs them all.

Not here: the quick variants, which are ordinary tests (`test_crashes.py`, `test_faults.py`, `test_threats.py`). The
law: a drill looks at minibot from the outside, as a process, through what the fake far ends saw and what lies in the
database afterwards; its load comes from a seed, and the seed is printed when it fails.

Next: `house.py`, the crowd and the audit; `__main__.py`, the list.
"""
