"""Selective scan (Gu & Dao 2023, arXiv:2312.00752): one op, several implementations."""

from kernels.selective_scan.api import selective_scan
from kernels.selective_scan.choose import NAMES, explain

__all__ = ["NAMES", "explain", "selective_scan"]
