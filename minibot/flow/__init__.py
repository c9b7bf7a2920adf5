"""What happens to a message: taken, answered, sent, exported.

Next: `intake.py`.
"""
