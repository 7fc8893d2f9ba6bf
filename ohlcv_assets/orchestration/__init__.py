"""Dagster begins here: one file a noun (partitions, resources, assets, checks, jobs, sensors, schedules).

Lives here: how the work of exchange/, storage/ and quality/ becomes assets, checks and runs. Does not: that work
itself; nothing below this package imports dagster.
"""
