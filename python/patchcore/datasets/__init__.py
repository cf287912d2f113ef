"""Data sets: layouts, checks, examination of each case, and the commands analyze, check and import."""
