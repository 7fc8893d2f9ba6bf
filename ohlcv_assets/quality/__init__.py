"""Whether captured bars are right: complete against the grid, sound each by itself, equal on both sides.

Lives here: pure comparisons of frames, and the verdict that they make together. Does not: reading a store more than a
verdict needs, or showing anything to anybody (orchestration/checks.py).
"""
