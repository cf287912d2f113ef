"""Mutation testing of the code that decides numbers: ``make mutants``.

A mutant is one small change of the code, such as ``<`` for ``<=``. If all tests that execute the changed line pass
nevertheless, the mutant *survives*: no test would notice such a mistake.
"""
