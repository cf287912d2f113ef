"""Everything that people see of results: figures, tables, HTML, and the texts of plans and summaries.

This room imports result types only. It computes nothing that a result does not already hold.
"""
