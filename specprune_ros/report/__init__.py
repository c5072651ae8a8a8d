"""HTML reports of eval, bench, analyze and compare: one file each that needs nothing else."""
from .page import Report, command_line

__all__ = ["Report", "command_line"]
