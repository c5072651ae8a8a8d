"""Execution of a query: stages and their times, and what a query costs."""
