"""Show results to users: figures, tables, HTML, and the texts of plans and summaries.

This package imports only result types. It shows values of the results and computes no new ones.
"""
