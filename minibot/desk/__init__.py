"""What the operator uses: the commands behind `run.py`, the demo, the metrics.

Next: `startup.py`.
"""
