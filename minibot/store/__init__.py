"""What is true: the tables and the verbs, on SQLite or PostgreSQL.

Next: `contract.py`.
"""
